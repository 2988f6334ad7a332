"""The processor's counters count each event once."""

import pytest

from tests.unit.vcpu.board import DATA, DEVICE, HOLE, PAGE_FAULT, UD, Board


@pytest.fixture
def board() -> Board:
    """Return a board that has run, so that its code and stack are mapped."""
    board = Board()
    board.run("8B0424")  # mov eax, [rsp]
    return board


def counted(board: Board, code: str) -> dict[str, int]:
    """Return how much a run of `code` adds to the counters."""
    before = board.p.counters()
    board.run(code)
    return {name: value - before[name] for name, value in board.p.counters().items()}


def test_first_access_to_a_page_is_one_shadow_fault(board: Board) -> None:
    board.set(rdi=DATA)

    first = counted(board, "8B07 8B4708")  # mov eax, [rdi]; mov eax, [rdi + 8]
    second = counted(board, "8B07 8B4708")

    assert (first["shadow_faults"], first["shadow_pages"]) == (1, 1)
    assert (second["shadow_faults"], second["shadow_pages"]) == (0, 0)


def test_first_store_to_a_page_that_was_read_is_another(board: Board) -> None:
    board.set(rdi=DATA)

    read = counted(board, "8B07")
    written = counted(board, "8907 894708")  # mov [rdi], eax; mov [rdi + 8], eax

    assert (read["shadow_faults"], written["shadow_faults"]) == (1, 1)


def test_access_of_two_pages_is_a_fault_for_each(board: Board) -> None:
    board.set(rdi=DATA + 0xFFE)

    assert counted(board, "8B07")["shadow_faults"] == 2


def test_page_fault_of_the_guest_is_no_shadow_fault(board: Board) -> None:
    board.set(rdi=HOLE)

    added = counted(board, "8B07")

    assert board.raised() == PAGE_FAULT
    assert (added["guest_faults"], added["exceptions"]) == (1, 1)
    # The handler's frame goes to the stack, which is mapped for reading so far.
    assert added["shadow_faults"] == 0


def test_device_access_is_no_shadow_fault(board: Board) -> None:
    board.set(rdi=DEVICE)

    added = counted(board, "8B07")

    assert board.device.reads == [(0, 4)]
    assert (added["shadow_faults"], added["guest_faults"], added["emulated"]) == (0, 0, 1)
    assert (added["mmio_reads"], added["mmio_writes"]) == (1, 0)


def test_read_and_write_of_a_device_are_one_each(board: Board) -> None:
    board.set(rdi=DEVICE)

    added = counted(board, "FF07")  # inc dword [rdi]

    assert (added["mmio_reads"], added["mmio_writes"]) == (1, 1)


@pytest.mark.parametrize(
    ("code", "name"), [("0F32", "msr_reads"), ("0F30", "msr_writes"), ("0FA2", "cpuid")]
)
def test_sensitive_instructions_are_counted_by_kind(board: Board, code: str, name: str) -> None:
    board.set(rcx=0xC0000103, rax=0, rdx=0)  # IA32_TSC_AUX

    added = counted(board, code)

    assert {k: added[k] for k in ("msr_reads", "msr_writes", "cpuid")} == {
        "msr_reads": 0, "msr_writes": 0, "cpuid": 0, name: 1,
    }  # fmt: skip


def test_halts_are_those_at_cpl_0(board: Board) -> None:
    assert counted(board, "90")["halts"] == 1, "the board's own, after the instruction"


def test_undefined_instruction_is_an_exception_and_no_host_fault(board: Board) -> None:
    added = counted(board, "0F0B")

    assert board.raised() == UD
    assert (added["guest_faults"], added["exceptions"], added["ops"]) == (0, 1, 1 + 1)  # and HLT


def test_exits_to_python_are_the_runs(board: Board) -> None:
    assert counted(board, "90")["python_exits"] == 1
