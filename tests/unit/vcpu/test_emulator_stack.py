"""The general emulator: stack instructions, near transfers and string instructions."""

import pytest

from tests.unit.vcpu.board import (
    CF,
    CODE,
    DATA,
    DB,
    DF,
    GP,
    HLT,
    HOLE,
    OF,
    PAGE_FAULT,
    PF,
    READ_ONLY,
    SF,
    STACK,
    TF,
    ZF,
    Board,
)

NON_CANONICAL = 0x8000_0000_0000


@pytest.fixture
def kernel() -> Board:
    return Board(0)


# --- stack


@pytest.mark.parametrize(
    ("code", "size", "value"),
    [
        ("53", 8, 0xFEDC),  # push rbx
        ("54", 8, STACK),  # push rsp: as it was
        ("6653", 2, 0xFEDC),  # push bx
        ("6AFE", 8, (1 << 64) - 2),  # push -2
        ("6880000080", 8, 0xFFFFFFFF_80000080),
        ("66688100", 2, 0x81),
        ("FF37", 8, 0x1234567890),  # push qword [rdi]
        ("66FF37", 2, 0x7890),
        ("9C", 8, 0x3003),  # pushfq: without RF and VM
    ],
)
def test_push(kernel: Board, code: str, size: int, value: int) -> None:
    kernel.poke(DATA, 0x1234567890)
    kernel.set(rbx=0xFEDC, rdi=DATA, rflags=0x3003 | 0x10000)
    kernel.emulate(code)
    assert kernel.get("rsp") == STACK - size
    assert int.from_bytes(kernel.p.read_phys(STACK - size, size), "little") == value
    assert kernel.get("rip") == CODE + len(bytes.fromhex(code))


def test_pop_to_a_register(kernel: Board) -> None:
    kernel.poke(STACK, 0x55)
    kernel.emulate("415A")  # pop r10
    assert (kernel.get("r10"), kernel.get("rsp")) == (0x55, STACK + 8)


def test_pop_to_16_bits_keeps_the_rest(kernel: Board) -> None:
    kernel.poke(STACK, 0x55)
    kernel.set(rbx=-1)
    kernel.emulate("665B")  # pop bx
    assert (kernel.get("rbx"), kernel.get("rsp")) == ((1 << 64) - 0x10000 + 0x55, STACK + 2)


def test_pop_rsp_takes_the_value(kernel: Board) -> None:
    kernel.poke(STACK, 0x5550)
    kernel.emulate("5C")
    assert kernel.get("rsp") == 0x5550


def test_pop_to_memory_addresses_with_the_new_stack_pointer(kernel: Board) -> None:
    kernel.poke(STACK, 0x77, 0, 0)
    kernel.emulate("8F442408")  # pop qword [rsp + 8]
    assert kernel.peek(STACK + 16) == 0x77
    assert kernel.get("rsp") == STACK + 8


def test_leave(kernel: Board) -> None:
    kernel.poke(DATA, 0x99)
    kernel.set(rbp=DATA)
    kernel.emulate("C9")
    assert (kernel.get("rsp"), kernel.get("rbp")) == (DATA + 8, 0x99)


@pytest.mark.parametrize("code", ["E8FB0F0000", "FFD3", "FF17", "FF542408"])
def test_call(kernel: Board, code: str) -> None:
    kernel.poke(DATA, CODE + 0x1000)
    kernel.poke(STACK + 8, CODE + 0x1000)
    kernel.set(rbx=CODE + 0x1000, rdi=DATA)
    kernel.emulate(code)
    assert kernel.get("rip") == CODE + 0x1000
    assert kernel.get("rsp") == STACK - 8
    assert kernel.peek(STACK - 8) == CODE + len(bytes.fromhex(code))


@pytest.mark.parametrize("code", ["E9FB0F0000", "FFE3", "FF27", "EB0E"])
def test_jump(kernel: Board, code: str) -> None:
    kernel.poke(DATA, CODE + 0x1000)
    kernel.set(rbx=CODE + 0x1000, rdi=DATA)
    kernel.emulate(code)
    assert kernel.get("rip") == CODE + (0x10 if code == "EB0E" else 0x1000)
    assert kernel.get("rsp") == STACK


@pytest.mark.parametrize(("code", "released"), [("C3", 8), ("C21000", 24), ("F3C3", 8)])
def test_return(kernel: Board, code: str, released: int) -> None:
    kernel.poke(STACK, CODE + 0x40)
    kernel.emulate(code)
    assert (kernel.get("rip"), kernel.get("rsp")) == (CODE + 0x40, STACK + released)


@pytest.mark.parametrize("code", ["C3", "FFD3", "FFE3"])
def test_a_transfer_out_of_the_address_space_faults_where_it_stands(
    kernel: Board, code: str
) -> None:
    kernel.poke(STACK, NON_CANONICAL)
    kernel.poke(STACK - 8, 0x11)
    kernel.set(rbx=NON_CANONICAL)
    kernel.emulate(code)
    assert kernel.raised() == GP
    frame = kernel.get("rsp")
    assert (kernel.peek(frame + 8), kernel.peek(frame + 32)) == (CODE, STACK)


@pytest.mark.parametrize("flags", [0, CF, ZF, SF, OF, PF, SF | OF, ZF | CF, CF | PF | SF])
def test_conditions_agree_with_the_processor(kernel: Board, flags: int) -> None:
    def outcome(condition: int, emulated: bool) -> int:
        code = bytes((0x70 + condition, 0x10))
        kernel.set(rflags=flags | 2)
        if emulated:
            kernel.emulate(code)
            return kernel.get("rip")
        kernel.p.write_phys(CODE + 0x12, HLT)
        kernel.run(code)
        return kernel.get("rip") - 1

    assert [outcome(c, True) for c in range(16)] == [outcome(c, False) for c in range(16)]


@pytest.mark.parametrize(
    ("code", "count", "flags", "left", "taken"),
    [
        ("E20E", 2, 0, 1, True),
        ("E20E", 1, 0, 0, False),
        ("E20E", 0, 0, (1 << 64) - 1, True),
        ("67E20D", 1 << 32 | 1, 0, 0, False),
        ("E10E", 2, ZF, 1, True),
        ("E10E", 2, 0, 1, False),
        ("E00E", 2, 0, 1, True),
        ("E00E", 2, ZF, 1, False),
        ("E30E", 0, 0, 0, True),
        ("E30E", 1 << 32, 0, 1 << 32, False),
        ("67E30D", 1 << 32, 0, 1 << 32, True),
    ],
)
def test_loops(kernel: Board, code: str, count: int, flags: int, left: int, taken: bool) -> None:
    kernel.set(rcx=count, rflags=flags | 2)
    kernel.emulate(code)
    assert kernel.get("rcx") == left
    assert kernel.get("rip") == CODE + (0x10 if taken else len(code) // 2)


# --- strings


@pytest.mark.parametrize("flags", [0, DF])
def test_movs(kernel: Board, flags: int) -> None:
    kernel.poke(DATA, 0x123456789A)
    kernel.set(rsi=DATA, rdi=DATA + 0x100, rcx=9, rflags=flags | 2)
    kernel.emulate("A5")  # movsd
    step = -4 if flags else 4
    assert kernel.peek(DATA + 0x100) == 0x3456789A
    assert (kernel.get("rsi"), kernel.get("rdi")) == (DATA + step, DATA + 0x100 + step)
    assert (kernel.get("rcx"), kernel.get("rip")) == (9, CODE + 1)


def test_a_segment_override_moves_the_source_only(kernel: Board) -> None:
    kernel.set(gs_base=0x100, rsi=DATA, rdi=DATA)
    kernel.poke(DATA + 0x100, 0xAB)
    kernel.emulate("65A4")  # movsb gs
    assert kernel.p.read_phys(DATA, 1) == b"\xab"


def test_rep_stos_ends_after_its_count(kernel: Board) -> None:
    kernel.set(rax=0x5A, rdi=DATA, rcx=10)
    kernel.emulate_to_its_end("F3AA")
    assert kernel.p.read_phys(DATA, 11) == b"\x5a" * 10 + b"\0"
    assert (kernel.get("rcx"), kernel.get("rdi")) == (0, DATA + 10)
    assert kernel.get("rip") == CODE + 2


def test_rep_with_count_zero_touches_nothing(kernel: Board) -> None:
    kernel.set(rdi=HOLE, rcx=0)
    kernel.emulate("F3AA")
    assert (kernel.get("rip"), kernel.get("rdi")) == (CODE + 2, HOLE)


def test_67h_counts_and_addresses_with_32_bits(kernel: Board) -> None:
    kernel.set(rdi=5 << 32 | DATA, rcx=7 << 32 | 1, rax=0x11)
    kernel.emulate("67F3AA")
    assert kernel.p.read_phys(DATA, 1) == b"\x11"
    assert (kernel.get("rdi"), kernel.get("rcx")) == (DATA + 1, 0)


def test_a_long_string_is_done_in_parts(kernel: Board) -> None:
    kernel.set(rax=1, rdi=DATA, rcx=100)
    kernel.emulate("F3AA")
    assert kernel.get("rip") == CODE
    assert kernel.get("rcx") + kernel.get("rdi") == DATA + 100
    kernel.run("F3AA")
    assert kernel.p.read_phys(DATA, 101) == b"\x01" * 100 + b"\0"


def test_a_string_that_faults_has_done_what_it_has_done(kernel: Board) -> None:
    kernel.set(rax=1, rdi=READ_ONLY - 2, rcx=5)
    kernel.emulate_to_its_end("F3AA")
    assert kernel.raised() == PAGE_FAULT
    assert (kernel.get("rdi"), kernel.get("rcx")) == (READ_ONLY, 3)
    assert kernel.peek(kernel.get("rsp") + 8) == CODE


def test_a_waiting_interrupt_stops_a_string(kernel: Board) -> None:
    kernel.set(rax=1, rdi=DATA, rcx=5, rflags=0x202)
    kernel.p.set_interrupt(True)
    kernel.emulate("F3AA")
    assert (kernel.get("rcx"), kernel.get("rip")) == (4, CODE)


def test_each_repetition_is_a_step(kernel: Board) -> None:
    kernel.set(rax=1, rdi=DATA, rcx=5, rflags=TF | 2)
    kernel.emulate("F3AA")
    assert kernel.raised() == DB
    assert kernel.get("rcx") == 4
    assert kernel.peek(kernel.get("rsp")) == CODE


@pytest.mark.parametrize(
    ("code", "left", "flags"),
    [
        ("F2AE", 2, ZF),  # repne scasb finds the third
        ("F3AE", 4, 0),  # repe scasb ends at the first
    ],
)
def test_scas(kernel: Board, code: str, left: int, flags: int) -> None:
    kernel.p.write_phys(DATA, b"abcde")
    kernel.set(rax=ord("c"), rdi=DATA, rcx=5)
    kernel.emulate(code)
    assert kernel.get("rcx") == left
    assert kernel.get("rflags") & ZF == flags
    assert kernel.get("rip") == CODE + 2


def test_cmps_compares_source_with_target(kernel: Board) -> None:
    kernel.p.write_phys(DATA, b"abd")
    kernel.p.write_phys(DATA + 0x100, b"abc")
    kernel.set(rsi=DATA, rdi=DATA + 0x100, rcx=3)
    kernel.emulate("F3A6")
    assert kernel.get("rcx") == 0
    assert not kernel.get("rflags") & (ZF | CF)


def test_lods(kernel: Board) -> None:
    kernel.poke(DATA, 0x1234)
    kernel.set(rsi=DATA, rax=-1)
    kernel.emulate("AC")
    assert kernel.get("rax") == (1 << 64) - 256 + 0x34
