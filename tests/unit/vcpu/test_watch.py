"""#AC and data breakpoints in accesses by the virtual processor and the general emulator."""

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import (
    CODE,
    DATA,
    DB,
    DEVICE,
    HOLE,
    PAGE_FAULT,
    RF,
    STACK,
    Board,
)

AC_FLAG, AC = 1 << 18, 17
CR0_AM = 1 << 18
WRITES, ACCESSES = 1, 3


@pytest.fixture
def kernel() -> Board:
    return Board()


@pytest.fixture
def user() -> Board:
    """Return a board with alignment checks enabled."""
    board = Board(cpl=3)
    board.set(rflags=2 | AC_FLAG, rax=0, rcx=0)
    return board


def frame(board: Board, words: int) -> tuple[int, ...]:
    """Return the words on top of the stack."""
    return struct.unpack(f"<{words}Q", board.p.read_linear(board.get("rsp"), 8 * words))


# --- alignment


@pytest.mark.parametrize(
    ("code", "offset", "vector"),
    [
        ("8A03", 1, None),  # mov al, [rbx]
        ("668B03", 1, AC),
        ("668B03", 2, None),
        ("8B03", 2, AC),
        ("8B03", 4, None),
        ("488B03", 4, AC),
        ("488903", 4, AC),
        ("480103", 8, None),
        ("DB2B", 4, AC),  # fld tbyte [rbx]
        ("DB2B", 8, None),
        ("0F1003", 4, None),  # movups xmm0, [rbx]
        ("F30F6F03", 8, None),  # movdqu
    ],
)
def test_emulated_operand(user: Board, code: str, offset: int, vector: int | None) -> None:
    user.set(rbx=DATA + offset)

    user.emulate(code)

    assert user.raised() == vector


def test_emulated_operand_without_the_flag(user: Board) -> None:
    user.set(rbx=DATA + 1, rflags=2)

    user.emulate("8B03")

    assert user.raised() is None


def test_emulated_operand_without_cr0_am(user: Board) -> None:
    user.set(rbx=DATA + 1, cr0=user.get("cr0") & ~CR0_AM)

    user.emulate("8B03")

    assert user.raised() is None


def test_emulated_operand_of_the_kernel(kernel: Board) -> None:
    kernel.set(rbx=DATA + 1, rflags=2 | AC_FLAG)

    kernel.emulate("8B03")

    assert kernel.raised() is None


def test_device_operand(user: Board) -> None:
    user.set(rbx=DEVICE + 2)

    user.run("8B03")

    assert user.raised() == AC
    assert user.device.reads == []
    assert frame(user, 2) == (0, CODE)


def test_page_fault_comes_first(user: Board) -> None:
    user.set(rbx=HOLE + 1)

    user.emulate("8B03")

    assert user.raised() == PAGE_FAULT


@pytest.mark.parametrize(
    ("code", "rsp"),
    [
        ("9C", STACK + 4),  # pushfq
        ("9D", STACK + 4),  # popfq
        ("48CF", STACK + 4),  # iretq
        ("48CB", STACK + 4),  # retfq
        ("0F000B", STACK),  # str [rbx]
        ("8C1B", STACK),  # mov [rbx], ds
        ("8E1B", STACK),  # mov ds, [rbx]
        ("0F0123", STACK),  # smsw [rbx]
        ("48FF1B", STACK),  # call far [rbx]
    ],
)
def test_operand_of_a_sensitive_instruction(user: Board, code: str, rsp: int) -> None:
    user.set(rbx=DATA + 1, rsp=rsp)

    user.run(code)

    assert user.raised() == AC
    assert frame(user, 2) == (0, CODE)


def test_delivery_is_not_checked(user: Board) -> None:
    user.set(rsp=STACK + 4)

    user.run("0F0B")

    assert user.raised() == 6


# --- data breakpoints


def watch(board: Board, address: int, length: int, kind: int) -> None:
    """Set breakpoint 0 on 1, 2, 4 or 8 bytes."""
    field = {1: 0, 2: 1, 4: 3, 8: 2}[length]
    board.set(dr0=address, dr7=0x402 | kind << 16 | field << 18)


def trapped(board: Board) -> bool:
    """Whether breakpoint 0, and nothing else, was raised after the instruction at `CODE`."""
    return board.raised() == DB and board.get("dr6") & 0xE00F == 1


@pytest.mark.parametrize(
    ("code", "kind", "hit"),
    [
        ("8B4704", ACCESSES, True),  # mov eax, [rdi + 4]
        ("8B4704", WRITES, False),
        ("894704", WRITES, True),
        ("894708", ACCESSES, False),
        ("014704", WRITES, True),
        ("0F104700", ACCESSES, True),  # movups xmm0, [rdi]
        ("FF7704", ACCESSES, True),  # push [rdi + 4]
    ],
)
def test_breakpoint_on_a_device(kernel: Board, code: str, kind: int, hit: bool) -> None:
    kernel.set(rdi=DEVICE)
    watch(kernel, DEVICE + 4, 4, kind)

    kernel.run(code)

    assert trapped(kernel) == hit
    if hit:
        assert frame(kernel, 1) == (CODE + len(code) // 2,)


def test_breakpoint_stops_a_string_to_a_device(kernel: Board) -> None:
    kernel.set(rdi=DEVICE, rcx=4, rax=7)
    watch(kernel, DEVICE + 8, 4, WRITES)

    kernel.run("F3AB")  # rep stosd

    assert trapped(kernel)
    assert kernel.get("rcx") == 1
    rip, _, rflags = frame(kernel, 3)
    assert (rip, rflags & RF) == (CODE, RF)


def test_breakpoint_at_a_long_string_holds_once(kernel: Board) -> None:
    kernel.place("F3AB")
    kernel.set(rdi=DEVICE, rcx=200, rflags=2 | RF, dr0=CODE, dr7=0x402)

    assert kernel.run("F3AB") == Exit.EXIT_HLT

    assert kernel.raised() is None
    assert (kernel.get("rcx"), len(kernel.device.writes)) == (0, 200)


@pytest.mark.parametrize(("lanes", "hit"), [(0b1111, True), (0b0100, True), (0b1011, False)])
def test_breakpoint_on_a_lane_of_a_gather(kernel: Board, lanes: int, hit: bool) -> None:
    mask = b"".join(struct.pack("<I", (lanes >> n & 1) << 31) for n in range(4))
    kernel.set_vectors(ymm1=struct.pack("<4I", 0, 8, 16, 24), ymm2=mask)
    kernel.set(rdi=DATA)
    watch(kernel, DATA + 16, 4, ACCESSES)

    kernel.run("C4E26990040F")  # vpgatherdd xmm0, [rdi + xmm1], xmm2

    assert trapped(kernel) == hit


def test_breakpoint_is_forgotten_if_the_instruction_faults(kernel: Board) -> None:
    kernel.set(rsi=DEVICE, rdi=HOLE)
    watch(kernel, DEVICE, 4, ACCESSES)

    kernel.run("A5")  # movsd

    assert kernel.raised() == PAGE_FAULT
    assert kernel.get("dr6") & 0xF == 0
    kernel.set(rsp=STACK)
    assert kernel.run("90") == Exit.EXIT_HLT
    assert kernel.raised() is None


@pytest.mark.parametrize(
    ("code", "address"),
    [
        ("9C", STACK - 8),  # pushfq
        ("9D", STACK),  # popfq
        ("48CF", STACK + 32),  # iretq
        ("0FA0", STACK - 8),  # push fs
        ("0FA1", STACK),  # pop fs
    ],
)
def test_breakpoint_on_the_stack_of_a_sensitive_instruction(
    kernel: Board, code: str, address: int
) -> None:
    kernel.p.write_phys(STACK, struct.pack("<5Q", *(0,) * 5))
    length = len(code) // 2
    if code == "48CF":
        kernel.p.write_phys(STACK, struct.pack("<5Q", CODE + length, 8, 2, STACK, 0x10))
    watch(kernel, address, 8, ACCESSES)

    kernel.run(code)

    assert trapped(kernel)
    assert frame(kernel, 1) == (CODE + length,)


def test_step_and_breakpoint_are_one_trap(kernel: Board) -> None:
    kernel.set(rdi=DEVICE, rflags=2 | 0x100)
    watch(kernel, DEVICE, 4, ACCESSES)

    kernel.run("8B07")

    assert kernel.raised() == DB
    assert kernel.get("dr6") & 0xE00F == 0x4001
