"""A virtual processor and its direct processes: what a program does to them, and what then."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest

from ringlet.core.state import Exit
from ringlet.direct.zygote import Zygote
from tests.unit.direct.board import CALLED, SYSCALL, USER_CODE_32, USER_DATA, DirectBoard, suicide
from tests.unit.direct.forged import stepping_hand_over
from tests.unit.direct.guest import move
from tests.unit.direct.stops import times
from tests.unit.vcpu.board import (
    CODE,
    DATA,
    DEVICE,
    GDT,
    GP,
    HOLE,
    IDT,
    MIXED,
    PAGE_FAULT,
    PD,
    PDPT,
)

DEBUG, DOUBLE_FAULT = 1, 8
REPLACED_MAX = 24
"""Dead processes that are replaced at once (vcpu/direct/target.pxd)."""
IS_THERE = move(3, 7) + SYSCALL


@pytest.fixture
def board(zygote: Zygote) -> DirectBoard:
    return DirectBoard(zygote)


def test_code_of_cpl_3_runs_directly_to_its_system_call(board: DirectBoard) -> None:
    assert board.calls(IS_THERE)

    assert board.get("rbx") == 7
    assert (board.count("runs") > 0, board.count("calls")) == (True, 1)


def killed(board: DirectBoard, times: int) -> None:
    """Let programs of as many address spaces kill their direct processes."""
    for _ in range(times):
        board.new_space()
        assert board.user(suicide()) == Exit.EXIT_HLT


def test_dead_processes_give_their_places_to_new_ones(zygote: Zygote) -> None:
    board = DirectBoard(zygote, 4)
    killed(board, 4)
    assert board.count("lost") == 4
    assert board.raised() == GP

    killed(board, 6)
    board.new_space()
    before = board.count("runs")

    assert board.calls(IS_THERE)
    assert board.count("lost") == 10
    assert board.count("runs") > before
    assert len(board.made) == 11


def test_programs_that_kill_their_processes_do_not_make_the_host_fork_forever(
    zygote: Zygote,
) -> None:
    board = DirectBoard(zygote, 2)
    begun = time.monotonic()

    killed(board, REPLACED_MAX + 30)

    seconds = int(time.monotonic() - begun) + 1
    assert 2 + REPLACED_MAX <= len(board.made) <= 2 + REPLACED_MAX + seconds
    # Translated code goes on where there is no process.
    board.new_space()
    assert board.calls(IS_THERE)
    assert board.get("rbx") == 7
    # One more is made in each second.
    time.sleep(1.1)
    made = len(board.made)
    board.new_space()
    assert board.calls(IS_THERE)
    assert len(board.made) == made + 1


def test_host_that_allows_few_processes_is_not_asked_again(
    zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = DirectBoard(zygote, 8)
    killed(board, 1)
    board.new_space()
    assert board.calls(IS_THERE)
    asked: list[int] = []

    def refuse(ram: list[int]) -> None:
        asked.append(1)
        raise OSError(11, "no more processes")

    monkeypatch.setattr(board.zygote, "make", refuse)
    for _ in range(5):
        board.new_space()
        assert board.calls(IS_THERE)
        assert board.get("rbx") == 7
    assert len(asked) == 1


# --- what a program leaves to the next one in its process


def same_space(board: DirectBoard) -> None:
    board.p.set("cr3", board.p.get("cr3"))


NEXT = pytest.mark.parametrize("next_space", [DirectBoard.new_space, same_space])


@NEXT
def test_odd_state_of_a_process_harms_only_the_program_that_made_it(
    next_space: Callable[[DirectBoard], None], zygote: Zygote
) -> None:
    board = DirectBoard(zygote, 1)
    forged = stepping_hand_over(CODE, DATA + 0x800)
    # At first the translator learns SYSCALL, and the process goes on meanwhile.
    board.new_space()
    board.user(forged)
    board.new_space()
    assert board.calls(forged)

    next_space(board)

    assert board.calls(IS_THERE)
    assert board.get("rbx") == 7


# --- selectors, which the host loads from its own descriptor table

LOAD_DS = b"\xb8\x2b\0\0\0\x8e\xd8"  # mov eax, USER_DATA; mov ds, eax


def test_selector_that_the_code_loads_is_loaded_from_the_guests_table(board: DirectBoard) -> None:
    assert board.calls(LOAD_DS + SYSCALL)

    assert board.get("ds.selector") == USER_DATA
    assert board.get("ds.limit") == 0xFFFFFFFF


@pytest.mark.parametrize("base", [DEVICE, DEVICE - USER_DATA, HOLE, HOLE - USER_DATA - 1, 1 << 60])
def test_odd_descriptor_table_harms_nobody(base: int, board: DirectBoard) -> None:
    """A selector is loaded, and the table is a device's, not mapped, or half of each."""
    board.p.set_table("gdtr", base, 0x37)
    reads = bytes.fromhex("8b042500000040")  # mov eax, [DEVICE]
    board.device.set(0, (0x12345678).to_bytes(4, "little"))

    # The kernel halts on its way: SYSCALL and interrupts to CPL 0 need no descriptor of data.
    assert board.calls(LOAD_DS + SYSCALL)
    assert board.device.reads == []
    assert board.get("ds.selector") == 0

    # Nothing waits for a device that was not asked.
    assert board.calls(reads + SYSCALL)
    assert board.get("rax") == 0x12345678
    assert board.device.reads == [(0, 4)]
    assert board.count("lost") == 0


def test_fault_of_a_delivery_waits_for_no_device(board: DirectBoard) -> None:
    """The last descriptors of the table are a device's, but none of the kernel's.  The page fault
    has no gate, so that there is a second exception."""
    board.p.write_phys(MIXED + 0x1000 - 0x28, board.p.read_phys(GDT, 0x28))
    board.p.set_table("gdtr", MIXED + 0x1000 - 0x28, 0x37)
    board.poke(IDT + 16 * PAGE_FAULT, 0)

    assert board.user(LOAD_DS + move(1, HOLE) + b"\x8a\x01") == Exit.EXIT_HLT

    assert board.raised() == DOUBLE_FAULT
    assert board.device.reads == []


def test_kernel_reads_what_the_program_wrote(board: DirectBoard) -> None:
    assert board.calls(move(0, 0x1234) + move(1, DATA) + b"\x48\x89\x01" + SYSCALL)

    assert board.peek(DATA) == 0x1234


def test_flags_that_a_program_reads_are_the_guests(board: DirectBoard) -> None:
    """PUSHF does not trap, and the host's interrupts are always enabled."""
    read = b"\x9c\x58" + SYSCALL  # pushfq; pop rax

    assert board.calls(read)
    assert board.get("rax") == 0x202
    assert board.count("calls") == 1

    board.flags = 2
    assert board.calls(read)
    assert board.get("rax") == 2


def test_program_that_jumps_to_32_bit_code_is_there(board: DirectBoard) -> None:
    """The host's table has the segment, so that the jump does not trap.  Then translated code goes
    on, in which HLT raises #GP."""
    there = CODE + 0x40
    jump = move(1, DATA) + b"\xff\x29"  # jmp far [rcx]
    # mov eax, 5; inc eax (a prefix in 64-bit code); add eax, eax; hlt
    code = bytes.fromhex("b805000000 40 01c0 f4")
    board.p.write_phys(DATA, struct.pack("<IH", there, USER_CODE_32))

    assert board.user(jump.ljust(0x40, b"\x90") + code) == Exit.EXIT_HLT

    assert board.raised() == GP
    frame = board.get("rsp")
    assert [board.peek(frame + 8 * i) for i in range(3)] == [0, there + 8, USER_CODE_32]
    assert board.get("rax") == 12
    assert board.count("lost") == 0


def test_program_without_a_32_bit_segment_does_not_go_on(board: DirectBoard) -> None:
    """What the host's processor has done is no part of the guest's program then."""
    board.poke(GDT + USER_CODE_32 - 3, 0)
    board.p.write_phys(DATA, struct.pack("<IH", CODE + 0x40, USER_CODE_32))

    code = (move(1, DATA) + b"\xff\x29").ljust(0x40, b"\x90") + b"\xf4"
    assert board.user(code) == Exit.EXIT_HLT

    assert board.raised() == GP
    assert board.peek(board.get("rsp") + 16) == 0x33
    assert board.count("lost") == 1


# --- instructions that the host carries out in its own way


@pytest.mark.parametrize("before", ["90", "f1"])
def test_int1_traps_behind_itself(board: DirectBoard, before: str) -> None:
    """Some hosts leave RIP at INT1."""
    assert board.user(b"\x90\xf1\x90") == Exit.EXIT_HLT
    code = bytes.fromhex("eb01" + before + "f1" + "90")

    assert board.user(code) == Exit.EXIT_HLT

    assert board.raised() == DEBUG
    assert board.peek(board.get("rsp")) == CODE + 4


@pytest.mark.parametrize("code", ["ff07", "f0834701" + "01", "a4"])
def test_write_to_the_own_page_by_another_address_goes_on(board: DirectBoard, code: str) -> None:
    board.map(HOLE, CODE | 7)
    there = move(7, HOLE + 0x200) + move(6, DATA) + bytes.fromhex(code) + SYSCALL

    assert board.calls(there)


def test_lowest_pages_run_translated(board: DirectBoard) -> None:
    """The host may refuse to map them."""
    board.map(0x1000, CODE | 7)
    board.place(IS_THERE)
    board.enter(3)
    board.set(rcx=0x1000)

    assert board.go() == Exit.EXIT_HLT
    assert (board.get("rbx"), board.count("lost")) == (7, 0)


# --- requests to stop


def test_every_request_stops_a_loop(board: DirectBoard) -> None:
    board.place(b"\xeb\xfe")
    board.enter(3)

    assert len(times(board, 100)) == 100
    # On a busy host a request can come before the loop has begun.
    assert board.count("runs") >= 50
    assert board.count("lost") == 0


def test_every_request_stops_a_program_that_calls_its_kernel(board: DirectBoard) -> None:
    """Requests come while the process runs, while it hands over, and while translated code runs."""
    board.p.write_phys(CALLED, b"\x48\x0f\x07")  # sysret
    board.place(SYSCALL + b"\xeb\xfc")
    board.enter(3)

    assert len(times(board, 300)) == 300
    assert board.count("calls") > 300
    assert board.count("lost") == 0


# --- pages beside code where there is no RAM

GIB = 1 << 30
LARGE = 0xE7
"""The bits of a user leaf that is large, was accessed and written."""


def test_code_behind_a_large_leaf_that_reaches_beyond_ram_runs(board: DirectBoard) -> None:
    board.poke(PDPT + 16, 0 | LARGE, PD | 7)  # at 2 GiB a leaf of 1 GiB, then small pages
    board.p.write_phys(CODE, SYSCALL)
    board.p.write_phys(0, IS_THERE)
    for at in (2 * GIB + CODE, 3 * GIB):
        board.enter(3)
        board.set(rcx=at)
        assert board.go() == Exit.EXIT_HLT

    assert (board.get("rbx"), board.count("calls")) == (7, 2)


def test_code_before_a_page_of_no_ram_runs(board: DirectBoard) -> None:
    code = IS_THERE.ljust(0xFFF, b"\x90") + b"\x0f"
    board.map(CODE + 0x1000, 1 << 45 | 7)
    board.p.write_phys(CODE, code)
    board.enter(3)

    assert board.go() == Exit.EXIT_HLT
    assert (board.get("rbx"), board.count("calls")) == (7, 1)


@pytest.mark.parametrize("stack", [DATA + 0x800, HOLE + 0x800])
def test_system_calls_of_32_bit_code_show_no_address_of_the_host(
    board: DirectBoard, stack: int
) -> None:
    """On AMD's processors SYSCALL is one in 32-bit code, too; Intel's raise #UD."""
    call = CODE + 0x100
    board.p.write_phys(DATA, struct.pack("<IH", call, USER_CODE_32))
    board.p.write_phys(CODE, move(4, stack) + b"\xff\x2c\x25" + struct.pack("<I", DATA))
    board.p.write_phys(call, bytes.fromhex("b814000000" + "bd88880000") + SYSCALL)
    board.enter(3)

    board.go()

    shown = [board.peek(board.get("rsp") + 8 * i) for i in range(2)]
    shown += [board.get(name) for name in ("rip", "rcx", "rdx", "rbx", "rsi", "rdi", "cr2")]
    assert [value for value in shown if 1 << 32 <= value < (1 << 64) - 4096] == []
