"""Each stop request stops the processor, whatever it is doing.

The next request would hide the loss of one, so a test waits for each stop before the next.
"""

import ctypes
import random
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DATA, GP, IDT, PDPT, Board

Guest = Callable[[Board], None]
KICKS = 100
LONG_S = 10.0
"""Seconds: much longer than a stop takes on a busy host."""
WINDOW = 2 << 30
"""Linear address of 1 GiB in which every page maps the same page of RAM."""
WINDOW_PD, WINDOW_PT = 0xA000, 0xB000
STRADDLE = (1 << 36) - 4
"""Linear address of an 8-byte operand in two slots, so that the emulator performs its
instruction."""


def plain(board: Board) -> None:
    board.place("FFC0 EBFC")  # 1: inc eax; jmp 1b


def page_faults(board: Board) -> None:
    """Access pages in sequence, each of which first has to be mapped in a window."""
    board.poke(PDPT + 16, WINDOW_PD | 7)
    board.poke(WINDOW_PD, *[WINDOW_PT | 7] * 512)
    board.poke(WINDOW_PT, *[DATA | 0x67] * 512)
    # 1: mov esi, WINDOW; mov ecx, 1 GiB / 4 KiB; 2: mov eax, [rsi]; add rsi, 4096; dec ecx; jnz 2b
    board.place("BE00000080 B900000400 8B06 4881C600100000 FFC9 75F3 EBE7")


def strings(board: Board) -> None:
    """One instruction that takes a long time: 256 MiB of the same page."""
    page_faults(board)
    # 1: mov edi, WINDOW; mov ecx, 32 Mi; rep stosq; jmp 1b
    board.place("BF00000080 B900000002 F348AB EBF1")


def own_stores(board: Board) -> None:
    """Store into the running fragment: the rest of the instruction is single-stepped."""
    # 1: inc byte [2f + 1]; 2: mov al, 0; jmp 1b
    board.place("FE0501000000 B000 EBF6")


def emulation(board: Board) -> None:
    """Access an operand that translated code cannot reach."""
    board.poke(PDPT + 8 * 63, 0xC000 | 7)
    board.poke(0xC000 + 8 * 511, 0xD000 | 7)
    board.poke(0xD000 + 8 * 511, DATA | 7)
    board.poke(PDPT + 8 * 64, 0xE000 | 7)
    board.poke(0xE000, 0xF000 | 7)
    board.poke(0xF000, DATA | 7)
    board.set(rsi=STRADDLE)
    board.place("480106 EBFB")  # 1: add [rsi], rax; jmp 1b


def chained(board: Board) -> None:
    """Run fragments in a chain of jumps across pages, calls and returns."""
    far = 0x3000
    # 1: call 2f; jmp 1b; far from it: 2: dec ecx; jnz 3f; nop; 3: ret
    board.p.write_phys(CODE + far, bytes.fromhex("FFC9 7501 90 C3"))
    board.place(b"\xe8" + struct.pack("<i", far - 5) + b"\xeb\xf9")


def exceptions(board: Board) -> None:
    """Fault, and return from the handler to the fault."""
    handler = DATA + 0x100
    board.p.write_phys(handler, bytes.fromhex("4883C408 48CF"))  # add rsp, 8; iretq
    board.poke(IDT + 16 * GP, handler & 0xFFFF | 8 << 16 | 0x8E << 40 | handler >> 16 << 48)
    board.set(rax=1 << 63)
    board.place("8B00 EBFC")  # 1: mov eax, [rax]; jmp 1b


GUESTS = [plain, page_faults, strings, own_stores, emulation, chained, exceptions]


class Runner:
    """Runs a board repeatedly in a separate thread."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.stops = threading.Semaphore(0)
        self.kinds: set[int] = set()
        self._over = False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while not self._over:
            self.kinds.add(int(self.board.p.run()))
            self.stops.release()

    def close(self) -> None:
        self._over = True
        while self.thread.is_alive():
            self.board.p.kick()
            self.thread.join(0.01)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def runners() -> Iterator[list[Runner]]:
    running: list[Runner] = []
    yield running
    for runner in running:
        runner.close()


@pytest.mark.parametrize("guest", GUESTS)
def test_each_single_request_ends_the_run(
    board: Board, runners: list[Runner], guest: Guest
) -> None:
    moments = random.Random(7)
    guest(board)
    runner = Runner(board)
    runners.append(runner)

    for number in range(KICKS):
        time.sleep(moments.random() * 0.003)
        board.p.kick()
        assert runner.stops.acquire(timeout=LONG_S), f"request {number} was lost"
    assert runner.kinds == {Exit.EXIT_INTERRUPTED}


@pytest.mark.parametrize("guest", [page_faults, own_stores, strings, emulation])
def test_the_guests_are_at_what_they_claim(board: Board, guest: Guest) -> None:
    guest(board)
    timer = threading.Timer(0.3, board.p.kick)
    timer.start()
    board.p.run()
    timer.join()
    counters = board.p.counters()

    assert {
        "page_faults": counters["shadow_faults"] > 100,
        "own_stores": counters["code_writes"] > 3,
        "strings": board.get("rcx") > 0,
        "emulation": counters["emulated"] > 100,
    }[guest.__name__]


class Action(ctypes.Structure):
    """`struct sigaction`."""

    _fields_ = (
        ("handler", ctypes.c_void_p), ("mask", ctypes.c_uint8 * 128), ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )  # fmt: skip


@pytest.fixture
def interrupted_sleep() -> Iterator[int]:
    """A signal whose handler waits for seconds, or until another signal comes."""
    libc = ctypes.CDLL(None)
    libc.sigaction.argtypes = (ctypes.c_int, ctypes.POINTER(Action), ctypes.POINTER(Action))
    sleep = ctypes.cast(libc.sleep, ctypes.c_void_p).value
    action, before = Action(handler=sleep, flags=0x08000000), Action()  # SA_ONSTACK
    libc.sigaction(signal.SIGUSR1, action, before)
    yield signal.SIGUSR1
    libc.sigaction(signal.SIGUSR1, before, None)


def test_a_request_within_another_handler_is_not_lost(
    board: Board, runners: list[Runner], interrupted_sleep: int
) -> None:
    plain(board)
    runner = Runner(board)
    runners.append(runner)
    assert runner.thread.ident is not None
    for _ in range(5):
        time.sleep(0.02)
        signal.pthread_kill(runner.thread.ident, interrupted_sleep)
        time.sleep(0.02)
        board.p.kick()
        assert runner.stops.acquire(timeout=LONG_S)
