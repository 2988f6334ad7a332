"""A debugger's breakpoints, steps and watchpoints, which the guest cannot see."""

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.debug.stops import DebugReason
from ringlet.vcpu.processor import Processor
from tests.unit.vcpu.board import (
    CODE,
    DATA,
    DEVICE,
    HANDLERS,
    HOLE,
    IF,
    PAGE_FAULT,
    READ_ONLY,
    TF,
    Board,
)

READS, WRITES, ACCESSES = 1, 2, 3
BREAKPOINT = (DebugReason.DEBUG_BREAKPOINT, 0)
STEPPED = (DebugReason.DEBUG_STEPPED, 0)
INC_RAX, DEC_RCX = "48FFC0", "48FFC9"


@pytest.fixture(params=[0, 3], ids=["kernel", "user"])
def board(request: pytest.FixtureRequest) -> Board:
    return Board(request.param)


@pytest.fixture
def kernel() -> Board:
    return Board()


def go(board: Board, *, step: bool = False, skip: bool = True) -> int:
    board.p.debug_go(step, skip)
    return int(board.p.run())


def watched(board: Board, number: int = 0) -> bool:
    return board.p.debug_stop() == (DebugReason.DEBUG_WATCHPOINT, 1 << number)


# --- where it stops


def test_breakpoint_in_the_middle_of_straight_code(board: Board) -> None:
    board.p.set_breakpoints([CODE + 6])
    board.set(rax=0)

    assert board.run(INC_RAX * 4) == Exit.EXIT_DEBUG

    assert board.p.debug_stop() == BREAKPOINT
    assert (board.get("rip"), board.get("rax")) == (CODE + 6, 2)


def test_it_holds_again_until_it_is_skipped(kernel: Board) -> None:
    kernel.p.set_breakpoints([CODE + 3])
    kernel.set(rax=0)
    kernel.run(INC_RAX * 2)

    assert kernel.p.run() == Exit.EXIT_DEBUG
    assert kernel.get("rip") == CODE + 3
    assert go(kernel) == Exit.EXIT_HLT
    assert kernel.get("rax") == 2


def test_breakpoint_in_code_that_has_run(kernel: Board) -> None:
    kernel.set(rax=0)
    kernel.run(INC_RAX * 4)
    kernel.p.set_breakpoints([CODE + 9])
    kernel.set(rip=CODE)

    assert kernel.p.run() == Exit.EXIT_DEBUG
    assert (kernel.get("rip"), kernel.get("rax")) == (CODE + 9, 7)


def test_breakpoint_that_is_gone(kernel: Board) -> None:
    kernel.p.set_breakpoints([CODE + 3])
    kernel.run(INC_RAX * 2)
    kernel.p.set_breakpoints([])

    assert kernel.p.run() == Exit.EXIT_HLT


def test_breakpoint_in_a_loop_holds_in_every_pass(board: Board) -> None:
    code = INC_RAX + DEC_RCX + "75F8"  # jnz CODE
    board.set(rax=0, rcx=5)
    board.run(code)
    board.p.set_breakpoints([CODE])
    board.set(rax=0, rcx=5, rip=CODE)
    seen: list[tuple[int, int]] = []

    while (go(board, skip=bool(seen))) == Exit.EXIT_DEBUG:
        seen.append((board.get("rip"), board.get("rax")))

    assert seen == [(CODE, n) for n in range(5)]


def test_breakpoint_behind_an_indirect_jump_that_is_cached(kernel: Board) -> None:
    code = "FFE3" + "90" * 14 + INC_RAX + DEC_RCX + "75E8"  # jmp rbx; target: inc, dec, jnz CODE
    kernel.set(rax=0, rcx=50, rbx=CODE + 16)
    kernel.run(code)
    assert kernel.get("rax") == 50
    kernel.p.set_breakpoints([CODE + 16])
    kernel.set(rax=0, rcx=3, rip=CODE)
    seen = 0

    while go(kernel) == Exit.EXIT_DEBUG:
        seen += 1

    assert (seen, kernel.get("rax")) == (3, 3)


def test_breakpoint_behind_a_sensitive_instruction(kernel: Board) -> None:
    kernel.p.set_breakpoints([CODE + 2])
    kernel.set(rax=0)

    assert kernel.run("0FA2" + INC_RAX) == Exit.EXIT_DEBUG  # cpuid

    assert kernel.get("rip") == CODE + 2


def test_breakpoint_behind_an_access_to_a_device(kernel: Board) -> None:
    kernel.set(rdi=DEVICE)
    kernel.run("8907" + "8907" + INC_RAX)  # mov [rdi], eax
    kernel.p.set_breakpoints([CODE + 4])

    assert kernel.run("8907" + "8907" + INC_RAX) == Exit.EXIT_DEBUG

    assert kernel.get("rip") == CODE + 4


def test_breakpoint_at_a_handler(kernel: Board) -> None:
    kernel.p.set_breakpoints([HANDLERS + 16 * PAGE_FAULT])
    kernel.set(rbx=HOLE)

    assert kernel.run("8B03") == Exit.EXIT_DEBUG

    assert kernel.raised() == PAGE_FAULT


def test_breakpoint_on_the_target_of_a_jump_to_itself(kernel: Board) -> None:
    kernel.p.set_breakpoints([CODE])
    kernel.run("EBFE")

    assert go(kernel) == Exit.EXIT_DEBUG
    assert kernel.get("rip") == CODE


def test_breakpoint_on_a_repeated_instruction_holds_once(board: Board) -> None:
    board.p.set_breakpoints([CODE])
    board.set(rdi=DATA, rcx=100)
    assert board.run("F3AA") == Exit.EXIT_DEBUG

    assert go(board) in {Exit.EXIT_HLT, Exit.EXIT_DEBUG}

    assert (board.get("rcx"), board.get("rdi")) == (0, DATA + 100)


def test_many_breakpoints(kernel: Board) -> None:
    kernel.p.set_breakpoints([*range(CODE + 3, CODE + 3 * 257, 3)])
    kernel.set(rax=0)

    kernel.run(INC_RAX * 400)
    stops = 1
    while go(kernel) == Exit.EXIT_DEBUG:
        stops += 1

    assert (stops, kernel.get("rax")) == (256, 400)


def test_too_many_breakpoints(kernel: Board) -> None:
    with pytest.raises(ValueError, match="256"):
        kernel.p.set_breakpoints(range(257))


def test_memory_is_as_it_was(kernel: Board) -> None:
    kernel.p.set_breakpoints([CODE + 3])
    kernel.run(INC_RAX * 2)

    assert kernel.p.read_phys(CODE, 7) == bytes.fromhex(INC_RAX * 2 + "F4")


# --- steps


def test_step_is_one_instruction(board: Board) -> None:
    board.place(INC_RAX * 3)
    board.set(rax=0)

    assert go(board, step=True) == Exit.EXIT_DEBUG

    assert board.p.debug_stop() == STEPPED
    assert (board.get("rip"), board.get("rax")) == (CODE + 3, 1)
    assert board.get("rflags") & TF == 0


@pytest.mark.parametrize("code", ["0FA2", "0F31", "FA", "9C", "9D", "50", "EB00", "FFE3", "8B03"])
def test_step_over(kernel: Board, code: str) -> None:
    length = kernel.place(code)
    kernel.set(rbx=CODE + 2, rax=0)

    assert go(kernel, step=True) == Exit.EXIT_DEBUG

    assert kernel.get("rip") == CODE + length


def test_pushed_flags_have_no_trap_flag(kernel: Board) -> None:
    kernel.place("9C")
    kernel.set(rsp=DATA + 8)

    go(kernel, step=True)

    assert kernel.peek(DATA) & TF == 0


def test_step_over_a_device_access(kernel: Board) -> None:
    kernel.place("8907" + INC_RAX)
    kernel.set(rdi=DEVICE)

    assert go(kernel, step=True) == Exit.EXIT_MMIO_WRITE
    kernel.p.complete()
    assert kernel.p.run() == Exit.EXIT_DEBUG

    assert kernel.get("rip") == CODE + 2


def test_step_into_a_handler(kernel: Board) -> None:
    kernel.place("0F0B")

    assert go(kernel, step=True) == Exit.EXIT_DEBUG

    assert kernel.raised() == 6


def test_no_interrupt_comes_while_stepping(kernel: Board) -> None:
    kernel.place(INC_RAX * 2)
    kernel.set(rflags=2 | IF)
    kernel.p.set_interrupt(True)

    assert go(kernel, step=True) == Exit.EXIT_DEBUG
    assert kernel.get("rip") == CODE + 3
    kernel.p.debug_go(False, True)
    assert kernel.p.run() == Exit.EXIT_WINDOW


def test_steps_of_the_guest_go_on(kernel: Board) -> None:
    kernel.place(INC_RAX * 2)
    kernel.set(rflags=2 | TF)

    assert go(kernel, step=True) == Exit.EXIT_DEBUG

    assert kernel.raised() == 1
    assert kernel.get("dr6") & 0x4000


def test_steps_and_watches_beyond_an_indirect_jump_that_is_cached(board: Board) -> None:
    # jmp rbx; CODE + 16: mov [rdi], eax; inc rax; dec rcx; jnz CODE
    code = "FFE3" + "90" * 14 + "8907" + INC_RAX + DEC_RCX + "75E6"
    board.set(rax=0, rcx=50, rbx=CODE + 16, rdi=DATA)
    board.run(code)
    board.set(rcx=3, rip=CODE)

    assert go(board, step=True) == Exit.EXIT_DEBUG
    assert board.get("rip") == CODE + 16
    board.p.set_watchpoints([(DATA, 4, WRITES)])
    board.set(rip=CODE)
    assert go(board) == Exit.EXIT_DEBUG
    assert watched(board)
    assert board.get("rip") == CODE + 18


def test_every_step_of_a_loop(board: Board) -> None:
    board.place(INC_RAX + DEC_RCX + "75F8")
    board.set(rax=0, rcx=3)
    path = []

    while go(board, step=True) == Exit.EXIT_DEBUG and board.get("rip") != CODE + 8:
        path.append(board.get("rip") - CODE)

    assert path == [3, 6, 0, 3, 6, 0, 3, 6]
    assert board.get("rax") == 3


# --- watchpoints


@pytest.mark.parametrize(
    ("code", "kinds", "hit"),
    [
        ("8903", WRITES, True),
        ("8903", READS, False),
        ("8B03", READS, True),
        ("8B03", WRITES, False),
        ("8B03", ACCESSES, True),
        ("FF03", WRITES, True),
        ("50", WRITES, False),
    ],
)
def test_watchpoint(board: Board, code: str, kinds: int, hit: bool) -> None:
    board.p.set_watchpoints([(DATA + 2, 1, kinds)])
    board.set(rbx=DATA)

    board.run(code + INC_RAX)

    assert watched(board) == hit
    assert (board.get("rip") == CODE + len(code) // 2) == hit


def test_watchpoint_is_unknown_to_the_guest(kernel: Board) -> None:
    before = [kernel.get(f"dr{n}") for n in range(8)]
    kernel.p.set_watchpoints([(DATA, 8, WRITES)])
    kernel.set(rbx=DATA)
    kernel.run("8903")

    assert [kernel.get(f"dr{n}") for n in range(8)] == before
    assert go(kernel) == Exit.EXIT_HLT
    assert kernel.raised() is None


def test_guests_own_breakpoint_beside_it(kernel: Board) -> None:
    kernel.p.set_watchpoints([(DATA + 8, 8, WRITES)])
    kernel.set(rbx=DATA, dr0=DATA, dr7=0xD0402)

    kernel.run("8903")

    assert kernel.raised() == 1
    assert kernel.get("dr6") & 1


def test_watchpoint_on_a_push_of_a_sensitive_instruction(kernel: Board) -> None:
    kernel.p.set_watchpoints([(DATA, 8, WRITES)])
    kernel.set(rsp=DATA + 8)

    kernel.run("9C" + INC_RAX)

    assert watched(kernel)
    assert kernel.get("rip") == CODE + 1


def test_watchpoint_on_a_device(kernel: Board) -> None:
    kernel.p.set_watchpoints([(DATA, 4, READS), (DEVICE, 4, WRITES)])
    kernel.set(rdi=DEVICE)

    assert kernel.run("8907" + INC_RAX) == Exit.EXIT_DEBUG

    assert watched(kernel, 1)
    assert kernel.get("rip") == CODE + 2


def test_watchpoint_of_an_access_that_faults(kernel: Board) -> None:
    kernel.p.set_watchpoints([(HOLE, 4, ACCESSES)])
    kernel.set(rbx=HOLE)

    assert kernel.run("8B03") == Exit.EXIT_HLT

    assert kernel.raised() == PAGE_FAULT


def test_watchpoint_that_is_gone(kernel: Board) -> None:
    kernel.p.set_watchpoints([(DATA, 4, ACCESSES)])
    kernel.p.set_watchpoints([])
    kernel.set(rbx=DATA)

    assert kernel.run("8B03") == Exit.EXIT_HLT


def test_too_many_watchpoints(kernel: Board) -> None:
    with pytest.raises(ValueError, match="4 watchpoints"):
        kernel.p.set_watchpoints([(0, 1, 1)] * 5)


# --- memory


def test_poke_where_the_guest_may_only_read(kernel: Board) -> None:
    kernel.p.poke_linear(READ_ONLY, b"here")

    assert kernel.p.read_phys(READ_ONLY, 4) == b"here"


def test_poke_is_all_or_nothing(kernel: Board) -> None:
    with pytest.raises(ValueError, match="not mapped"):
        kernel.p.poke_linear(HOLE - 2, b"over the edge")

    assert kernel.p.read_phys(HOLE - 2, 2) == b"\0\0"


def test_poke_changes_code_that_has_run(kernel: Board) -> None:
    kernel.set(rax=0)
    kernel.run(INC_RAX * 2)
    kernel.p.poke_linear(CODE, bytes.fromhex("909090"))
    kernel.set(rax=0, rip=CODE)

    kernel.p.run()

    assert kernel.get("rax") == 1


def test_a_processor_that_nobody_debugs_says_nothing() -> None:
    assert Processor(4 << 20).debug_stop() == (0, 0)
