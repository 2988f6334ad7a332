"""The general emulator in protected and compatibility mode: segments, stacks, modes, devices."""

import struct

import pytest

from tests.unit.vcpu.board import (
    CODE,
    DATA,
    DB,
    DEVICE,
    GP,
    KERNEL_STACK,
    PAGE_FAULT,
    PD,
    PDPT,
    PT,
    STACK,
    STACK_FAULT,
    TF,
    UD,
    Board,
)
from tests.unit.vcpu.narrow_board import (
    BASE,
    CODE16,
    CODE32,
    CODE_AT,
    CS,
    DATA16,
    DATA32,
    DATA_BASE,
    DOWN16,
    DOWN32,
    DS,
    EXECUTE32,
    FLAT,
    HOLE,
    NULL,
    PHYS,
    READ,
    READ_ONLY,
    SIZE,
    SMALL,
    SS,
    WRAPS,
    NarrowBoard,
    State,
)

BOUND_RANGE = 5


@pytest.fixture
def board() -> NarrowBoard:
    return NarrowBoard()


def state(code: str, *, bits: int = 32, ds: int = DATA32, ss: int = DATA32, **named: int) -> State:
    """Return a state with some registers; memory counts up in words."""
    memory = struct.pack(f"<{SIZE // 2}H", *(i & 0xFFFF for i in range(SIZE // 2)))
    code_segment = CODE16 if bits == 16 else CODE32
    order = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
    registers = [named.pop(name, 0x8000 if name == "esp" else 0) for name in order]
    found = State(
        bytes.fromhex(code), [DATA32, code_segment, ss, ds, DATA32, DATA32], registers,
        memory=memory,
    )  # fmt: skip
    for name, value in named.items():
        setattr(found, name, value)
    return found


# --- segments


@pytest.mark.parametrize(
    ("segment", "offset", "code", "exception"),
    [
        (DATA32, 0xFFFC, "8B03", None),  # mov eax, [ebx]
        (DATA32, 0xFFFD, "8B03", (GP, 0)),
        (DATA32, 0xFFFF, "8A03", None),
        (DATA32, 0x10000, "8A03", (GP, 0)),
        (DATA32, 0xFFFFFFFF, "8B03", (GP, 0)),
        (SMALL, 0x7FC, "8903", None),
        (SMALL, 0x7FD, "8903", (GP, 0)),
        (READ, 0x100, "8B03", None),
        (READ, 0x100, "8903", (GP, 0)),
        (READ, 0x100, "833B00", None),  # cmp dword [ebx], 0
        (READ, 0x100, "0103", (GP, 0)),
        (DOWN16, 0x8000, "8B03", None),
        (DOWN16, 0x7FFF, "8B03", (GP, 0)),
        (DOWN16, 0xFFFC, "8B03", None),
        (DOWN16, 0xFFFD, "8B03", (GP, 0)),
        (DOWN16, 0x10000, "8A03", (GP, 0)),
        (DOWN32, 0x7FFF, "8A03", (GP, 0)),
        (DOWN32, 0xFFFC, "8B03", None),
        (DOWN32, 0xFFFFFFFD, "8B03", (GP, 0)),
        (CODE32, 0x100, "8B03", None),
        (CODE32, 0x100, "8903", (GP, 0)),
        (EXECUTE32, 0x100, "8B03", (GP, 0)),
        (EXECUTE32, 0x100, "0FAE3B", None),  # clflush [ebx]
        (NULL, 0x100, "8A03", (GP, 0)),
        (NULL, 0x100, "8D03", None),  # lea: no access
        (NULL, 0x100, "0F1803", None),  # prefetchnta
        (FLAT, BASE, "8B03", None),
        (FLAT, 0xFFFFFFFF, "8B03", (GP, 0)),
        (FLAT, BASE + HOLE, "8B03", (PAGE_FAULT, 4)),
        (FLAT, BASE + READ_ONLY, "8903", (PAGE_FAULT, 7)),
        (WRAPS, 0xFFFF0000, "8B03", None),
    ],
)
def test_an_access_to_a_segment(
    board: NarrowBoard, segment: int, offset: int, code: str, exception: tuple[int, int] | None
) -> None:
    begin = state(code, ds=segment, ebx=offset)

    result = board.perform(begin)

    assert result.exception == exception
    assert (result.eip == CODE_AT) == (exception is not None)
    if exception is not None:
        assert result.registers == begin.registers
        assert result.memory == begin.image()


@pytest.mark.parametrize(
    ("stack", "code", "exception"),
    [
        (SMALL, "8B4500", (STACK_FAULT, 0)),  # mov eax, [ebp]
        (SMALL, "3E8B4500", None),
        (SMALL, "50", (STACK_FAULT, 0)),
        (SMALL, "58", (STACK_FAULT, 0)),
        (SMALL, "60", (STACK_FAULT, 0)),
        (SMALL, "9C", (STACK_FAULT, 0)),
        (SMALL, "C9", (STACK_FAULT, 0)),
        (SMALL, "C3", (STACK_FAULT, 0)),
        (SMALL, "E800000000", (STACK_FAULT, 0)),
        (SMALL, "FF3424", (STACK_FAULT, 0)),
        (SMALL, "8F00", (STACK_FAULT, 0)),
        (DATA32, "8F00", None),
        (DATA32, "8F03", (GP, 0)),  # pop [ebx], beyond DS's limit
    ],
)
def test_the_stack_segment_has_its_own_exception(
    board: NarrowBoard, stack: int, code: str, exception: tuple[int, int] | None
) -> None:
    begin = state(code, ss=stack, ebp=0x8000, ebx=0x10000)

    result = board.perform(begin)

    assert result.exception == exception
    if exception is not None:
        assert result.registers == begin.registers


@pytest.mark.parametrize("code", ["0F2803", "C5FC2803", "660F6F03", "0F5803"])
def test_a_misaligned_vector(board: NarrowBoard, code: str) -> None:
    assert board.perform(state(code, ebx=0x101)).exception == (GP, 0)
    assert board.perform(state(code, ebx=0x120)).exception is None


def test_an_operand_crosses_the_end_of_linear_addresses() -> None:
    board = compatible()
    board.poke(PDPT + 24, 0xB000 | 7)
    board.poke(0xB000 + 8 * 511, 0xC000 | 7)
    board.poke(0xC000 + 8 * 511, DATA | 7)
    board.poke(PT, (DATA + 0x1000) | 7)
    board.p.write_phys(DATA + 0xFFE, b"\x11\x22\x33\x44")
    board.p.set_segment(DS, 0x2B, 0xFFFFF000, 0xFFFFFF, 0xC0F3)
    board.set(rbx=0xFFE)
    board.emulate("8B03")

    assert board.get("rax") == 0x44332211


# --- stacks


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("big", [False, True])
def test_sizes_of_pushes_and_of_the_stack_pointer(
    board: NarrowBoard, bits: int, wide: bool, big: bool
) -> None:
    size = 4 if wide else 2
    prefix = "66" if wide != (bits == 32) else ""
    stack = DATA32 if big else DATA16
    pointer = 0x12340000 | 0x8000 if not big else 0x8000

    result = board.perform(state(prefix + "50", bits=bits, ss=stack, eax=0x89ABCDEF, esp=pointer))

    assert result.registers[4] == pointer - size
    at = 0x10000 + 0x8000 - size
    assert result.memory[at : at + size] == b"\xef\xcd\xab\x89"[:size]


def test_pop_to_memory_counts_from_the_popped_pointer(board: NarrowBoard) -> None:
    # The upper half of ESP, which the 16-bit stack pointer does not change, is part of the address.
    begin = state("67668F442408", bits=16, ss=DATA16, esp=0xFFFE)
    begin.registers[4] = 0x7FF8

    result = board.perform(begin)

    assert result.memory[0x18004:0x18008] == result.memory[0x17FF8:0x17FFC]
    assert result.registers[4] == 0x7FFC


def test_pop_to_a_faulting_operand_keeps_the_pointer(board: NarrowBoard) -> None:
    result = board.perform(state("8F0500E00100", ds=DATA32))

    assert result.exception == (GP, 0)
    assert result.registers[4] == 0x8000


def test_pushad_writes_nothing_if_a_page_is_missing(board: NarrowBoard) -> None:
    begin = state("60", ss=FLAT, ds=FLAT, esp=BASE + 0x10)  # nothing is below BASE

    result = board.perform(begin)

    assert result.exception == (PAGE_FAULT, 6)
    assert result.cr2 == BASE - 4
    assert result.registers == begin.registers
    assert result.memory == begin.image()


# --- transfers


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("E9FB3F0000", 0x8000),
        ("E9FB7FFFFF", None),  # below 0 is above the limit
        ("E900C00000", None),
        ("66E900C0", 0x0004),  # 16 bits
        ("66EB10", 0x4013),
        ("FFE0", 0xFFFF),
        ("FFE1", None),  # 1'0000h
        ("66FFE1", 0x0000),
        ("FFD1", None),
        ("66FFD1", 0x0000),
    ],
)
def test_targets_within_the_limit_of_cs(board: NarrowBoard, code: str, target: int | None) -> None:
    begin = state(code, eax=0xFFFF, ecx=0x10000)

    result = board.perform(begin)

    assert result.exception == ((GP, 0) if target is None else None)
    assert result.eip == (CODE_AT if target is None else target)
    if target is None:
        assert result.registers == begin.registers
        assert result.memory == begin.image()


# --- modes


def compatible() -> Board:
    """Return a board in 32-bit compatibility mode at CPL 3, whose exceptions can be delivered."""
    board = Board(3)
    board.p.set_segment(CS, 0x23, 0, 0xFFFFFFFF, 0xC0FB)
    board.p.set_segment(SS, 0x1B, 0, 0xFFFFFFFF, 0xC0F3)
    return board


def test_bytes_mean_what_the_mode_says(board: NarrowBoard) -> None:
    # 8B 47 01: mov ax, [bx + 1] or mov eax, [edi + 1]
    for _ in range(2):
        narrow = board.perform(state("8B4701", bits=16, ebx=0x100, edi=0x200))
        wide = board.perform(state("8B4701", bits=32, ebx=0x100, edi=0x200))

        assert narrow.registers[0].to_bytes(2, "little") == narrow.memory[0x10101:0x10103]
        assert wide.registers[0].to_bytes(4, "little") == wide.memory[0x10201:0x10205]


def test_the_same_push_with_stacks_of_both_sizes(board: NarrowBoard) -> None:
    for _ in range(2):
        big = board.perform(state("50", ss=DATA32, esp=0x8000))
        small = board.perform(state("50", ss=DATA16, esp=0x18000))

        assert (big.registers[4], big.exception) == (0x7FFC, None)
        assert (small.registers[4], small.exception) == (0x17FFC, None)


def test_rex_prefixes_are_inc_and_dec_outside_64_bit_code() -> None:
    board = Board(3)
    board.set(rax=5)
    board.emulate("48FFC0")  # inc rax
    assert board.get("rax") == 6

    board.p.set_segment(CS, 0x23, 0, 0xFFFFFFFF, 0xC0FB)
    board.emulate("48FFC0")  # dec eax
    assert (board.get("rax"), board.get("rip")) == (5, CODE + 1)


def test_a_32_bit_result_clears_the_upper_half() -> None:
    board = compatible()
    board.set(rcx=-1, rsp=0xFFFFFFFF_00000000 | STACK)
    board.emulate("41")
    assert board.get("rcx") == 0

    board.emulate("50")
    assert board.get("rsp") == STACK - 4


# --- exceptions


def frame(board: Board, count: int) -> tuple[int, ...]:
    """Return what the delivery of an exception has pushed, from the lowest address on."""
    return struct.unpack(f"<{count}Q", board.p.read_phys(KERNEL_STACK - 8 * count, 8 * count))


def test_bound_is_a_fault() -> None:
    board = compatible()
    board.p.write_phys(DATA, struct.pack("<ii", -7, 7))
    board.set(rbx=DATA, rax=-8 & 0xFFFFFFFF)
    board.emulate("6203")

    assert board.raised() == BOUND_RANGE
    assert frame(board, 5)[0] == CODE


def test_a_register_as_bounds_is_undefined() -> None:
    board = compatible()
    board.emulate("62C3 0000000000")

    assert board.raised() == UD


def test_the_trap_of_a_single_step() -> None:
    board = compatible()
    board.set(rflags=TF | 2)
    board.emulate("40")

    assert board.raised() == DB
    assert frame(board, 5)[0] == CODE + 1


# --- devices


def test_a_device_is_read_and_written() -> None:
    board = compatible()
    board.device.set(0, b"\x11\x22\x33\x44")
    board.set(rbx=DEVICE, rax=0x01010101)
    board.emulate("0103")  # add [ebx], eax

    assert board.device.reads == [(0, 4)]
    assert board.device.writes == [(0, 4, 0x45342312)]


def test_pusha_to_a_device_and_popa_from_it() -> None:
    board = compatible()
    values = {"rax": 1, "rcx": 2, "rdx": 3, "rbx": 4, "rbp": 5, "rsi": 6, "rdi": 7}
    board.set(rsp=DEVICE + 0x40, **values)
    board.emulate("60")
    board.set(**dict.fromkeys(values, 0))
    board.emulate("61")

    assert {name: board.get(name) for name in values} == values
    assert board.get("rsp") == DEVICE + 0x40
    assert len(board.device.writes) == len(board.device.reads) == 8


def test_a_gather_takes_32_bit_addresses(board: NarrowBoard) -> None:
    begin = state("C4E271900493", ebx=0x100)  # vpgatherdd xmm0, [ebx + xmm2 * 4], xmm1
    board.load(begin)
    ones = struct.pack("<4I", *[0xFFFFFFFF] * 4)
    board.set_vectors(ymm1=ones, ymm2=struct.pack("<4i", 0, 2, -2, 0x40000001))
    begin.vectors = board.p.get_xsave()

    board.perform(begin)

    memory = begin.image()[0x10000:]
    wanted = [memory[at : at + 4] for at in (0x100, 0x108, 0xF8, 0x104)]
    assert board.vector(0)[:16] == b"".join(wanted)


def test_memory_of_the_board_is_where_segments_say(board: NarrowBoard) -> None:
    board.perform(state("C60542000000 77"))  # mov byte [42h], 77h

    assert board.p.read_phys(PHYS + DATA_BASE - BASE + 0x42, 1) == b"\x77"
    assert board.peek(PD) == 0
