"""The run loop over translated code: exits and their continuation, stops, exact faults."""

import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import (
    CF,
    CODE,
    DATA,
    DB,
    DEVICE,
    GDT,
    GP,
    HOLE,
    IDT,
    IF,
    MIXED,
    PAGE_FAULT,
    RF,
    STACK,
    TF,
    UD,
    ZF,
    Board,
)

DR6_FIXED, BS = 0xFFFF0FF0, 1 << 14


@pytest.fixture
def board() -> Board:
    return Board()


@contextmanager
def kicked_after(board: Board, seconds: float) -> Iterator[None]:
    """Stop the processor from another thread."""
    timer = threading.Timer(seconds, board.p.kick)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def vector(board: Board) -> int:
    """Return the vector in whose handler the processor has halted."""
    return (board.get("rip") - 0x10000) // 16


def frame(board: Board, words: int) -> tuple[int, ...]:
    """Return the words on top of the stack."""
    return struct.unpack(f"<{words}Q", board.p.read_linear(board.get("rsp"), 8 * words))


# --- exits to the machine


def test_code_of_a_device_is_not_run(board: Board) -> None:
    board.set(rax=DEVICE)

    assert board.run("FFE0") == Exit.EXIT_NO_RAM  # jmp rax
    assert board.get("rip") == DEVICE


def test_code_that_runs_on_into_a_device_is_not_run(board: Board) -> None:
    board.p.write_phys(MIXED + 0xFFF, b"\x0f")
    board.set(rax=MIXED + 0xFFF)

    assert board.run("FFE0") == Exit.EXIT_NO_RAM


def test_32_bit_code_is_not_run_as_if_it_were_64_bit(board: Board) -> None:
    board.poke(GDT + 0x28, 0x00CF9B000000FFFF)
    board.p.set_table("gdtr", GDT, 0x2F)
    board.p.write_phys(DATA, b"\x40\xf4")  # inc eax; hlt

    assert board.run("6A28 6800000400 48CB") == Exit.EXIT_HLT  # a far return to DATA
    assert (board.get("rip"), board.p.get_segment(1)[0]) == (DATA + 2, 0x28)
    assert board.get("rax") == 1


def test_in_takes_what_complete_gives(board: Board) -> None:
    board.place("66BAF803 EC")  # mov dx, 3F8h; in al, dx
    assert board.p.run() == Exit.EXIT_IO_IN
    board.p.complete(0x5A)
    assert board.p.run() == Exit.EXIT_HLT
    assert board.get("rax") == 0x5A


def test_translated_code_goes_on_after_an_exit_without_a_lookup(board: Board) -> None:
    board.place("B964000000 E6F4 FFC9 75FA")  # mov ecx, 100; 1: out F4h, al; dec ecx; jnz 1b
    kinds = [board.p.run() for _ in range(101)]
    assert kinds == [Exit.EXIT_IO_OUT] * 100 + [Exit.EXIT_HLT]
    assert board.p.counters()["lookups"] < 20


def test_attached_ports_are_served_within_the_run(board: Board) -> None:
    asked: list[tuple[int, ...]] = []

    def read(port: int, size: int) -> int:
        asked.append((port, size))
        return 0x1234

    board.p.attach_ports(read, lambda port, size, value: asked.append((port, size, value)))
    board.place("66E540 6689C2 E780")  # in ax, 40h; mov dx, ax; out 80h, eax
    assert board.p.run() == Exit.EXIT_HLT
    assert asked == [(0x40, 2), (0x80, 4, 0x1234)]
    counters = board.p.counters()
    assert (counters["port_reads"], counters["port_writes"]) == (1, 1)


def test_the_step_trap_follows_a_served_out(board: Board) -> None:
    board.p.attach_ports(lambda port, size: 0, lambda port, size, value: None)
    board.set(rflags=2 | TF)
    board.place("E680 90")
    assert board.p.run() == Exit.EXIT_HLT
    assert (vector(board), frame(board, 1)[0]) == (DB, CODE + 2)


def test_a_device_stops_the_run_that_it_is_asked_in(board: Board) -> None:
    board.p.attach_ports(lambda port, size: 0, lambda port, size, value: board.p.kick())
    board.place("E680 FFC0")
    assert board.p.run() == Exit.EXIT_INTERRUPTED
    assert (board.get("rip"), board.get("rax")) == (CODE + 2, 0)


def test_a_device_that_fails_ends_the_run_and_the_next_one_goes_on(board: Board) -> None:
    def fail(port: int, size: int, value: int) -> None:
        raise BrokenPipeError

    board.p.attach_ports(lambda port, size: 0, fail)
    board.place("E680 FFC0")
    with pytest.raises(BrokenPipeError):
        board.p.run()
    assert board.p.run() == Exit.EXIT_HLT
    assert board.get("rax") == 1


def test_code_changed_during_an_exit_is_seen(board: Board) -> None:
    board.place("E6F4 B801000000")  # out F4h, al; mov eax, 1
    assert board.p.run() == Exit.EXIT_IO_OUT
    board.p.write_phys(CODE + 3, b"\x02")
    assert board.p.run() == Exit.EXIT_HLT
    assert board.get("rax") == 2


def test_a_register_set_during_an_exit_is_used(board: Board) -> None:
    board.place("E6F4 89D8")  # out F4h, al; mov eax, ebx
    assert board.p.run() == Exit.EXIT_IO_OUT
    board.set(rbx=77)
    assert board.p.run() == Exit.EXIT_HLT
    assert board.get("rax") == 77


# --- stops


LOOPS = {
    "jmp": "EBFE",
    "jmp-register": "488D05F9FFFFFF FFE0",  # 1: lea rax, [1b]; jmp rax
    "copy": "8B07 39C0 74FA",  # 1: mov eax, [rdi]; cmp eax, eax; je 1b
    "ret": f"68{(CODE + 8).to_bytes(4, 'little').hex()} C3 9090"  # 1: push 2f; ret
    f"68{CODE.to_bytes(4, 'little').hex()} C3",  # 2: push 1b; ret
}


@pytest.mark.parametrize("name", ["jmp", "jmp-register", "ret", "copy"])
def test_a_kick_stops_a_loop(board: Board, name: str) -> None:
    board.place(LOOPS[name])
    started = time.monotonic()
    with kicked_after(board, 0.05):
        assert board.p.run() == Exit.EXIT_INTERRUPTED
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["jmp", "ret"])
def test_an_interrupt_stops_a_loop(board: Board, name: str) -> None:
    board.place(LOOPS[name])
    board.set(rflags=2 | IF)
    timer = threading.Timer(0.05, board.p.set_interrupt, (True,))
    timer.start()
    assert board.p.run() == Exit.EXIT_WINDOW
    timer.join()


@pytest.mark.parametrize("body", ["0307", "FFD2", "50 C3"])
def test_code_goes_on_as_before_after_many_stops(board: Board, body: str) -> None:
    """A loop with a copy of itself, one that calls, one that returns to a pushed address."""
    rounds = 20_000_000
    code = f"B9{rounds.to_bytes(4, 'little').hex()}"
    size = len(bytes.fromhex(body)) + 4
    # mov ecx, rounds; 1: BODY; dec ecx; jnz 1b
    code += f"{body} FFC9 75{(256 - size).to_bytes(1, 'little').hex()}"
    board.p.write_phys(DATA + 0x8000, b"\xff\xc3\xc3")  # inc ebx; ret
    board.place(code)
    stops = runs = 0
    while stops <= 20:  # a crowded host is slow to stop it, so one run may not be enough
        runs += 1
        board.set(rip=CODE, rdi=DATA, rax=CODE + 7, rbx=0, rdx=DATA + 0x8000)
        while True:
            board.p.set_alarm(time.monotonic_ns() + 50_000)
            kind = Exit(board.p.run())
            if kind != Exit.EXIT_INTERRUPTED:
                break
            stops += 1
        assert kind == Exit.EXIT_HLT
        assert board.get("rcx") == 0
        if body == "FFD2":
            assert board.get("rbx") == rounds
    board.p.set_alarm(None)
    counters = board.p.counters()
    assert counters["lookups"] < 20 * runs + 8 * stops


def test_a_kick_before_the_run_stops_it(board: Board) -> None:
    board.place("EBFE")
    board.p.kick()
    assert board.p.run() == Exit.EXIT_INTERRUPTED


def test_a_kick_from_the_thread_of_another_run(board: Board) -> None:
    """The timer that helps a kick follows the thread that runs."""
    kinds: list[int] = []
    for _ in range(2):
        board.place(LOOPS["ret"])
        thread = threading.Thread(target=lambda: kinds.append(board.p.run()))
        with kicked_after(board, 0.05):
            thread.start()
            thread.join(10)
    assert kinds == [Exit.EXIT_INTERRUPTED] * 2


@pytest.mark.parametrize("name", ["jmp", "jmp-register", "ret", "copy"])
def test_the_alarm_stops_a_loop(board: Board, name: str) -> None:
    board.place(LOOPS[name])
    due = time.monotonic_ns() + 20_000_000
    board.p.set_alarm(due)
    assert board.p.run() == Exit.EXIT_INTERRUPTED
    assert due <= time.monotonic_ns() < due + 2_000_000_000


def test_the_alarm_rings_once_and_not_when_it_is_taken_back(board: Board) -> None:
    board.place("EBFE")
    board.p.set_alarm(time.monotonic_ns())
    assert board.p.run() == Exit.EXIT_INTERRUPTED
    board.p.set_alarm(time.monotonic_ns() + 10_000_000)
    board.p.set_alarm(None)
    started = time.monotonic()
    with kicked_after(board, 0.1):
        assert board.p.run() == Exit.EXIT_INTERRUPTED
    assert time.monotonic() - started >= 0.09


def test_an_alarm_that_rings_between_two_runs_stops_the_next(board: Board) -> None:
    board.place("EBFE")
    board.p.kick()
    board.p.run()
    board.p.set_alarm(time.monotonic_ns() + 1_000_000)
    time.sleep(0.01)
    assert board.p.run() == Exit.EXIT_INTERRUPTED


@pytest.mark.parametrize("name", ["jmp", "ret"])
def test_a_thread_that_blocks_all_signals_is_stopped(board: Board, name: str) -> None:
    board.place(LOOPS[name])
    kinds: list[int] = []

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG, signal.SIGTERM})
        board.p.set_alarm(time.monotonic_ns() + 10_000_000)
        kinds.append(board.p.run())
        with kicked_after(board, 0.02):
            kinds.append(board.p.run())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert kinds == [Exit.EXIT_INTERRUPTED] * 2


# --- instructions that are not what they look like


def test_xchg_r8_rax_with_f3_is_no_pause(board: Board) -> None:
    board.set(rax=1, r8=2)
    board.run("F34190")
    assert (board.get("rax"), board.get("r8")) == (2, 1)


def test_nops_access_nothing(board: Board) -> None:
    board.set(rax=HOLE)
    assert board.run("0F1F00 0F18 08 660F1F440000 F390") == Exit.EXIT_HLT
    assert vector(board) > 32


@pytest.mark.parametrize("code", ["66" * 15 + "90", "2E" * 14 + "31C0", "66" * 12 + "C70425"])
def test_more_than_15_bytes_are_a_general_protection_fault(board: Board, code: str) -> None:
    board.run(code)
    assert vector(board) == GP
    assert frame(board, 2) == (0, CODE)


def test_an_instruction_over_two_pages_is_learned(board: Board) -> None:
    board.p.write_phys(CODE + 0xFFE, bytes.fromhex("6641B83412 F4"))
    board.place("E9F90F0000")  # jmp CODE + FFEh
    assert board.p.run() == Exit.EXIT_HLT
    assert board.get("r8") == 0x1234


# --- exact faults


@pytest.mark.parametrize("speculate", [False, True])
def test_flags_that_are_read_later_are_exact_at_a_fault(speculate: bool) -> None:
    board = Board(speculate=speculate)
    board.set(rbx=DATA, rcx=HOLE)
    board.run("F9 8B03 8B09 73FE")  # stc; mov eax, [rbx]; mov ecx, [rcx]; jnc $
    assert vector(board) == PAGE_FAULT
    assert frame(board, 4)[3] & CF


def test_dead_flags_are_exact_at_a_fault_without_speculation() -> None:
    board = Board(speculate=False)
    board.set(rbx=DATA, rcx=HOLE)
    board.run("F9 8B03 0309")  # stc; mov eax, [rbx]; add ecx, [rcx]
    assert vector(board) == PAGE_FAULT
    assert frame(board, 4)[3] & (CF | ZF) == CF


@pytest.mark.parametrize(
    ("code", "offset"),
    [("FFE0", 0), ("90FFD0", 1), ("50C3", 1), ("50C21000", 1)],
    ids=["jmp", "call", "ret", "ret-16"],
)
def test_a_branch_to_no_address_is_its_own_fault(code: str, offset: int) -> None:
    board = Board(speculate=False)
    board.set(rax=1 << 47)
    board.run(code)
    pushed = STACK - 8 if code.startswith("50") else STACK
    error, rip, _, _, rsp = frame(board, 5)
    assert (vector(board), error, rip, rsp) == (GP, 0, CODE + offset, pushed)


# --- single steps, at the edges


def test_a_step_ends_at_the_handler(board: Board) -> None:
    board.set(rflags=2 | TF)
    board.run("90")
    assert vector(board) == DB
    assert frame(board, 3)[0] == CODE + 1
    assert board.get("dr6") == DR6_FIXED | BS


def test_a_step_over_an_exit_to_the_machine(board: Board) -> None:
    board.set(rflags=2 | TF)
    board.place("E4F4 90")
    assert board.p.run() == Exit.EXIT_IO_IN
    board.p.complete(9)
    assert board.p.run() == Exit.EXIT_HLT
    assert (vector(board), frame(board, 1)[0], board.get("rax")) == (DB, CODE + 2, 9)


@pytest.mark.parametrize(("code", "rcx", "left"), [("F3A4", 3, 2), ("F2AE", 3, 2), ("F3A6", 3, 2)])
def test_a_step_is_one_repetition(board: Board, code: str, rcx: int, left: int) -> None:
    board.set(rflags=2 | TF, rcx=rcx, rsi=DATA, rdi=DATA + 64, rax=1)
    board.run(code)
    rip, _, flags = frame(board, 3)
    assert (vector(board), rip, board.get("rcx")) == (DB, CODE, left)
    assert (board.get("rsi") - DATA, board.get("rdi") - DATA) in {(1, 65), (0, 65)}
    assert flags & RF


def test_a_breakpoint_is_before_its_instruction_and_rf_passes_it(board: Board) -> None:
    board.set(dr0=CODE, dr7=0x402)
    board.run("FFC0")
    rip, _, flags = frame(board, 3)
    assert (vector(board), rip, flags & RF, board.get("rax")) == (DB, CODE, 0, 0)
    board.enter(0)
    board.set(rflags=2 | RF)
    assert board.run("FFC0") == Exit.EXIT_HLT
    assert (board.get("rip"), board.get("rax")) == (CODE + 3, 1)


def test_the_trap_of_a_store_waits_for_the_instruction_after_mov_ss(board: Board) -> None:
    board.poke(DATA, 0x10)
    board.set(dr0=DATA, dr7=0x402 | 3 << 16, rbx=DATA)
    board.run("8E13 90 90")  # mov ss, [rbx]
    assert (vector(board), frame(board, 1)[0]) == (DB, CODE + 3)
    assert board.get("dr6") & 0xF == 1


@pytest.mark.parametrize("flags", [2, 2 | TF])
@pytest.mark.parametrize(("de", "hit"), [(True, 2), (False, 0)])
def test_a_breakpoint_of_a_port_traps_after_the_access(
    board: Board, flags: int, de: bool, hit: int
) -> None:
    board.set(dr1=0x80, dr7=0x408 | 2 << 20, cr4=board.get("cr4") & ~8 | (8 if de else 0))
    board.set(rflags=flags)
    board.place("E680 FFC0 FFC0")
    assert board.p.run() == Exit.EXIT_IO_OUT
    board.p.complete()
    assert board.p.run() == Exit.EXIT_HLT
    step = BS if flags & TF else 0
    assert board.get("dr6") == DR6_FIXED | hit | step
    assert board.get("rax") == (0 if hit or step else 2)


def test_sti_goes_on_in_its_fragment(board: Board) -> None:
    board.place("B964000000 FBFA FFC9 75FA")  # mov ecx, 100; 1: sti; cli; dec ecx; jnz 1b
    assert board.p.run() == Exit.EXIT_HLT
    assert board.p.counters()["lookups"] < 20


def test_a_fault_while_stepping_is_delivered_instead(board: Board) -> None:
    board.set(rflags=2 | TF)
    board.run("0F0B")
    assert (vector(board), frame(board, 1)[0]) == (UD, CODE)
    assert board.peek(IDT) != 0


def test_flags_come_through_an_indirect_jump_whose_table_entry_is_anothers(board: Board) -> None:
    """Two targets with the same low 16 bits alternate; only one of them reads flags."""
    idle, wanting, code = DATA + 0x1000, DATA + 0x11000, DATA + 0x2000
    board.p.write_phys(idle, bytes.fromhex("31C0 FFE7"))  # xor eax, eax; jmp rdi
    board.p.write_phys(wanting, bytes.fromhex("7201 F4 FFE6"))  # jc over; hlt; over: jmp rsi
    # 1: lea rdi, [2f]; jmp rdx (idle); 2: stc; lea rsi, [3f]; jmp rcx (wanting);
    # 3: dec ebx; jnz 1b; mov eax, 7; hlt
    board.p.write_phys(
        code,
        bytes.fromhex("488D3D02000000 FFE2 F9 488D3502000000 FFE1 FFCB 75E9 B807000000 F4"),
    )
    board.set(rip=code, rdx=idle, rcx=wanting, rbx=50)
    assert board.p.run() == Exit.EXIT_HLT
    assert (board.get("rax"), board.get("rbx")) == (7, 0)
