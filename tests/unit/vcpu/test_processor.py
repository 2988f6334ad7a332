"""A new processor: MSRs after reset, the CPUID model, the width of physical addresses."""

import gc
import struct

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.model import default_entries, tsc_khz
from ringlet.vcpu.processor import Processor
from tests.unit.vcpu.board import DATA, GP, PAGE_FAULT, Board

PHYSICAL_LEAF = 0x80000008
P_W, RSVD = 3, 8
MTRR_MASK, EFER = 0x201, 0xC0000080


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0x1B, 0xFEE00900),  # IA32_APIC_BASE: enabled, the bootstrap processor's
        (0x3A, 1),  # IA32_FEATURE_CONTROL: locked
        (0x3B, 0),
        (0x10A, 0x400000000D10E17B),
        (0x1A0, 0x1801),  # IA32_MISC_ENABLE: fast strings; no BTS, no PEBS
        (0x1D9, 0),
        (0x200, 0),
        (0x277, 0x0007040600070406),  # IA32_PAT
        (0x2FF, 0),
        (0xC0000082, 0),
    ],
)
def test_msr_after_reset(board: Board, index: int, value: int) -> None:
    board.set(rcx=index)

    assert board.run("0F32") == Exit.EXIT_HLT  # rdmsr

    assert board.raised() is None
    assert board.get("rdx") << 32 | board.get("rax") == value


def test_cpuid_is_that_of_the_default_model(board: Board) -> None:
    shown = []
    for leaf, subleaf in ((0, 0), (7, 0), (0x15, 0), (0x80000001, 0)):
        board.set(rax=leaf, rcx=subleaf)
        board.run("0FA2")
        shown.append((leaf, *(board.get(name) for name in ("rax", "rbx", "rcx", "rdx"))))

    model = {(row[0], row[1]): tuple(row[3:]) for row in default_entries()}
    assert shown == [
        (leaf, *model[leaf, subleaf])
        for leaf, subleaf in ((0, 0), (7, 0), (0x15, 0), (0x80000001, 0))
    ]
    assert board.get("tsc_khz") == tsc_khz()


def narrowed(bits: int) -> list[tuple[int, ...]]:
    """Return the default table with another width of physical addresses."""
    return [
        (*row[:3], row[3] & ~0xFF | bits, *row[4:]) if row[0] == PHYSICAL_LEAF else tuple(row)
        for row in default_entries()
    ]


@pytest.fixture(params=[36, 40, 46])
def bits(request: pytest.FixtureRequest, board: Board) -> int:
    """Return the width that CPUID reports to the guest."""
    width = int(request.param)
    board.p.set_cpuid(narrowed(width))
    return width


def test_page_table_entry_beyond_the_width_is_reserved(board: Board, bits: int) -> None:
    board.map(DATA, 1 << bits | P_W)
    board.set(rdi=DATA)

    board.run("8B07")  # mov eax, [rdi]

    assert board.raised() == PAGE_FAULT
    (error,) = struct.unpack("<Q", board.p.read_linear(board.get("rsp"), 8))
    assert error & RSVD


def test_page_table_entry_within_the_width_is_an_address(board: Board, bits: int) -> None:
    board.map(DATA, 1 << bits - 1 | P_W)
    board.set(rdi=DATA)

    board.place("8B07")

    assert board.p.run() == Exit.EXIT_MMIO_READ
    assert board.p.exit_info().phys == 1 << bits - 1


def test_cr3_has_the_same_width(board: Board, bits: int) -> None:
    board.set(rax=board.get("cr3") | 1 << bits)

    board.run("0F22D8")  # mov cr3, rax

    assert board.raised() == GP


@pytest.mark.parametrize("beyond", [False, True])
def test_mtrr_mask_has_the_same_width(board: Board, bits: int, beyond: bool) -> None:
    mask = 1 << bits - 1 + beyond
    board.set(rcx=MTRR_MASK, rax=0x800, rdx=mask >> 32)

    board.run("0F30")  # wrmsr

    assert board.raised() == (GP if beyond else None)


def test_processor_without_the_leaf_has_36_bits() -> None:
    board = Board()
    board.p.set_cpuid([row for row in default_entries() if row[0] != PHYSICAL_LEAF])
    board.map(DATA, 1 << 36 | P_W)
    board.set(rdi=DATA)

    board.run("8B07")

    assert board.raised() == PAGE_FAULT


def test_eight_processors_have_room_in_one_process() -> None:
    processors = [Processor(1 << 20) for _ in range(8)]

    assert [p.read_phys(0, 1) for p in processors] == [b"\0"] * 8


def test_machines_that_nobody_has_any_more_make_room() -> None:
    gc.disable()
    try:
        for _ in range(40):
            processor = Processor(1 << 20)
            kept = [processor]
            processor.attach_level(kept.append)  # type: ignore[arg-type]  # a cycle
    finally:
        gc.enable()

    assert processor.read_phys(0, 1) == b"\0"
