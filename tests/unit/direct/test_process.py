"""Direct processes: what runs in them, what stops them, and what they can reach."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringlet.direct.process import CONTROL, END, RAM, STACK, STUB, DirectProcess
from ringlet.direct.zygote import PROGRAM, Zygote, symbols
from tests.unit.direct.guest import (
    CODE,
    CR2,
    DATA,
    EXECUTE,
    MMAP,
    MPROTECT,
    MUNMAP,
    PAGE,
    PROTECTION,
    RAX,
    RBX,
    RDI,
    READ,
    RIP,
    SELECTORS,
    SHARED_FIXED,
    SIGILL,
    SIGSEGV,
    SIGSYS,
    SIGTRAP,
    SIGURG,
    TRAP,
    USER_SELECTORS,
    WRITE,
    DirectGuest,
    move,
    store,
)

SYSCALL = b"\x0f\x05"
LOOP = b"\xeb\xfe"
JUMP_R11 = b"\x41\xff\xe3"
HAND_OVER = symbols(PROGRAM)["hand_over"]

Make = Callable[[bytes], DirectGuest]


@pytest.fixture
def make(zygote: Zygote) -> Iterator[Make]:
    made: list[DirectGuest] = []

    def one(code: bytes) -> DirectGuest:
        made.append(DirectGuest(zygote, code))
        return made[-1]

    yield one
    for guest in made:
        guest.close()


def test_a_system_call_hands_over_with_its_registers(make: Make) -> None:
    guest = make(move(0, 1234) + move(7, 99) + SYSCALL + move(3, 7) + SYSCALL)

    assert guest.go() == SIGSYS
    assert (guest.process.get(RAX), guest.process.get(RDI)) == (1234, 99)
    assert guest.process.get(RIP) == CODE + 22

    guest.process.set(RAX, 5)
    assert guest.go() == SIGSYS
    assert (guest.process.get(RAX), guest.process.get(RBX)) == (5, 7)


@pytest.mark.parametrize("number", [*range(600), 0x40000000, 0x40000009, 1 << 31, -1])
def test_no_system_call_of_the_guest_reaches_the_host(number: int, make: Make) -> None:
    code = move(0, number) + b"".join(move(r, 0) for r in (7, 6, 2, 10, 8, 9)) + SYSCALL
    guest = make(code)

    assert guest.go() == SIGSYS
    assert guest.process.get(RAX) == number % (1 << 64)


@pytest.mark.parametrize(
    ("code", "sig", "trap"),
    [
        (b"\xcd\x80", SIGSYS, None),
        (b"\x0f\x0b", SIGILL, 6),
        (b"\xcc", SIGTRAP, 3),
        (b"\xf4", SIGSEGV, PROTECTION),
        (b"\xfa", SIGSEGV, PROTECTION),
        (b"\xe4\x60", SIGSEGV, PROTECTION),
        (b"\x0f\x20\xc0", SIGSEGV, PROTECTION),
        (b"\x0f\x32", SIGSEGV, PROTECTION),
        (b"\xcd\x2e", SIGSEGV, PROTECTION),
    ],
)
def test_an_instruction_traps(code: bytes, sig: int, trap: int | None, make: Make) -> None:
    guest = make(code)

    assert guest.go() == sig
    if trap is not None:
        assert guest.process.get(TRAP) == trap


def test_a_page_fault_names_its_address(make: Make) -> None:
    guest = make(move(1, 0x7654321) + b"\x8b\x01")

    assert guest.go() == SIGSEGV
    assert guest.process.get(CR2) == 0x7654321


def test_a_running_process_stops_soon(make: Make) -> None:
    guest = make(LOOP)
    guest.process.resume()
    time.sleep(0.01)

    guest.process.kill(SIGURG)
    guest.process.wait()

    assert guest.process.frame()
    assert guest.process.signal == SIGURG
    assert guest.process.get(RIP) == CODE


def ends(pid: int) -> bool:
    """Whether a process ends soon."""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def pause(guest: DirectGuest) -> None:
    """Stop a process and let it go on, as the host does with whole groups."""
    stat = Path(f"/proc/{guest.process.pid}/stat")
    guest.process.kill(signal.SIGSTOP)
    while stat.read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.001)
    guest.process.kill(signal.SIGCONT)


def test_pause_in_a_hand_over_loses_nothing(make: Make) -> None:
    """Its system call begins anew, and with it what the kernel vouches for."""
    guest = make(move(0, 1234) + SYSCALL + move(3, 7) + SYSCALL)
    assert guest.go() == SIGSYS

    pause(guest)

    assert guest.go() == SIGSYS
    assert (guest.process.get(RIP), guest.process.get(RBX)) == (CODE + 24, 7)


def test_pause_before_commands_skips_none(make: Make) -> None:
    guest = make(SYSCALL)
    assert guest.go() == SIGSYS
    guest.process.command(MUNMAP, DATA, PAGE)

    pause(guest)
    guest.process.again()

    assert guest.process.wait()
    assert guest.memory() == guest.own_memory() - {(DATA, DATA + PAGE, "rw-s")}


def test_death_in_a_hand_over_is_seen(make: Make) -> None:
    guest = make(SYSCALL)
    assert guest.go() == SIGSYS
    guest.process.kill(signal.SIGKILL)
    assert ends(guest.process.pid)

    assert not guest.hands_over()


def test_signal_to_the_thread_that_waits_loses_nothing(make: Make) -> None:
    guest = make(LOOP)
    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    waits = threading.get_ident()
    signals = [
        threading.Timer(0.1, signal.pthread_kill, [waits, signal.SIGUSR1]),
        threading.Timer(0.2, guest.process.kill, [SIGURG]),
        threading.Timer(5, guest.process.kill, [signal.SIGKILL]),
    ]
    for timer in signals:
        timer.start()
    try:
        guest.process.resume()
        assert guest.process.wait()
    finally:
        for timer in signals:
            timer.cancel()
        signal.signal(signal.SIGUSR1, previous)
    assert guest.process.frame()
    assert guest.process.signal == SIGURG


def test_pause_while_the_processor_waits_loses_nothing(make: Make) -> None:
    guest = make(LOOP)
    guest.process.resume()
    time.sleep(0.01)

    pause(guest)
    guest.process.kill(SIGURG)

    assert guest.process.wait()
    assert guest.process.frame()
    assert guest.process.signal == SIGURG


def test_only_the_stub_and_guest_pages_are_mapped(make: Make) -> None:
    guest = make(SYSCALL)
    guest.go()

    assert guest.memory() == guest.own_memory()
    assert guest.files() == {RAM}


def test_the_secret_is_nowhere_in_the_process(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 0x5EC2E7A5_1D3B_9F71
    monkeypatch.setattr(secrets, "randbits", lambda _: secret)
    guest = make(SYSCALL + LOOP)
    guest.go()
    guest.process.resume()
    time.sleep(0.01)

    with Path(f"/proc/{guest.process.pid}/mem").open("rb", buffering=0) as memory:
        for first, last, rights in guest.memory():
            if rights[0] == "r":
                memory.seek(first)
                content = memory.read(last - first)
                for half in (secret >> 32 & 0x3FFFFFFF, secret & 0xFFFFFFFF):
                    assert half.to_bytes(4, "little") not in content
    registers = guest.process.shared()
    assert (secret | 1 << 62 | 1).to_bytes(8, "little") not in registers


def test_a_failed_command_stops_the_process_before_it_goes_on(make: Make) -> None:
    guest = make(move(3, 7) + SYSCALL)
    # Beyond the addresses of user space.
    guest.process.command(MPROTECT, 1 << 47, PAGE, READ)
    guest.process.set(RBX, 1)
    guest.process.poke(0, bytes(4))

    assert guest.go() == 0
    assert guest.process.get(RBX) == 1


def test_a_process_ends_with_its_object(zygote: Zygote) -> None:
    guest = DirectGuest(zygote, LOOP)
    pid = guest.process.pid
    guest.process.resume()

    guest.close()
    del guest

    assert ends(pid)


def test_process_whose_memory_the_host_refuses_is_ended() -> None:
    """The caller learns it as it learns of processes that cannot be made."""
    listener, other = os.pipe()
    with subprocess.Popen(["sleep", "100"]) as sleeper:
        with pytest.raises(OSError, match="memory of a direct process"):
            DirectProcess(
                -1, listener, os.pidfd_open(sleeper.pid), sleeper.pid, 1,
                wakes_here=True, end_wakes=True,
            )  # fmt: skip

        assert sleeper.wait() == -signal.SIGKILL
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(listener)
    os.close(other)


def test_processes_end_with_their_zygote() -> None:
    zygote = Zygote()
    guest = DirectGuest(zygote, LOOP)
    guest.process.resume()

    zygote.close()

    assert ends(guest.process.pid)
    guest.close()


ORPHANS = """
import ctypes, os
from ringlet.direct.zygote import Zygote
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
zygote = Zygote()
processes = [zygote.make([os.memfd_create("ringlet-test")]) for _ in range(3)]
zygote.close()
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("none")
"""


def test_zygote_leaves_no_process_to_init() -> None:
    """In a container init may be a program that waits for none."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS], capture_output=True, text=True, check=True
    )

    assert done.stdout == "none\n"


# --- attacks: what code of the guest tries with the stub

ARGUMENTS = {
    "map RAM": (MMAP, DATA + PAGE, PAGE, READ | WRITE | EXECUTE, SHARED_FIXED, RAM, 0),
    "make code writable": (MPROTECT, CODE, PAGE, READ | WRITE | EXECUTE, 0, 0, 0),
    "unmap the stub": (MUNMAP, STUB, PAGE, 0, 0, 0, 0),
    "kill": (62, 1, signal.SIGKILL, 0, 0, 0, 0),
}
NUMBERS = (0, 7, 6, 2, 10, 8, 9)  # RAX, RDI, RSI, RDX, R10, R8, R9


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("start", range(0, 320, 40))
def test_a_jump_to_any_byte_of_the_stub_changes_nothing(name: str, start: int, make: Make) -> None:
    """A command with the attacker's arguments lies in its own memory, and RBX points there; its
    arguments are in the registers, too."""
    number, *arguments = ARGUMENTS[name]
    for offset in range(start, start + 40):
        loads = b"".join(
            move(register, value)
            for register, value in zip(NUMBERS, (number, *arguments), strict=True)
        )
        guest = make(loads + move(3, DATA) + move(11, STUB + offset) + JUMP_R11)
        command = b"".join(value.to_bytes(8, "little") for value in (number, *arguments, 0))
        os.pwrite(guest.ram, command * 8, PAGE)
        if guest.hands_over(0.2):
            assert guest.memory() == guest.own_memory(), offset
            assert guest.files() == {RAM}
        guest.process.kill(signal.SIGKILL)


def test_a_forged_hand_over_says_only_what_any_program_could_do(make: Make) -> None:
    """Code enters the hand-over itself, after it has written the signal and a frame of its own."""
    frame = STACK + 0x2000
    guest = make(
        store(CONTROL, SIGSEGV)
        + store(CONTROL + 24, frame)
        + store(frame + 48 + 8 * RIP, CODE + 5)
        + store(frame + 48 + 8 * RAX, 0xABCDEF)
        + move(11, HAND_OVER)
        + JUMP_R11
    )

    assert guest.go() == SIGSEGV
    assert guest.process.get(RAX) == 0xABCDEF
    assert guest.memory() == guest.own_memory()

    # The virtual processor's registers are what it goes on with.
    guest.process.set(RIP, CODE + 8)
    guest.process.set(SELECTORS, USER_SELECTORS)
    os.pwrite(guest.ram, SYSCALL, 8)
    assert guest.go() == SIGSYS
    assert guest.process.get(RIP) == CODE + 10


@pytest.mark.parametrize("address", [0, STUB, CONTROL, STACK + 4, END - 8, 1 << 63, DATA])
def test_a_frame_elsewhere_is_refused(address: int, make: Make) -> None:
    guest = make(store(CONTROL + 24, address) + move(11, HAND_OVER) + JUMP_R11)

    assert guest.hands_over()
    assert not guest.process.frame()


def test_a_step_inside_the_stub_is_seen(make: Make) -> None:
    """With TF set the stub traps after its first instruction, with what is in its registers."""
    guest = make(move(11, STUB) + b"\x9c\x48\x81\x0c\x24\x00\x01\x00\x00\x9d" + JUMP_R11)

    assert guest.go() == SIGTRAP
    while guest.process.get(RIP) - CODE < PAGE:
        assert guest.go() == SIGTRAP
    assert 0 <= guest.process.get(RIP) - STUB < PAGE


def test_a_page_has_only_the_rights_it_was_given(make: Make) -> None:
    guest = make(move(1, CODE) + b"\x88\x01")

    assert guest.go() == SIGSEGV
    assert guest.process.get(CR2) == CODE


@pytest.mark.parametrize("wiped", [DirectProcess.begin, DirectProcess.renew])
def test_next_program_finds_nothing_of_the_last_one(
    wiped: Callable[[DirectProcess], None], make: Make
) -> None:
    guest = make(SYSCALL)
    unmapped = 0x1234_5678_9000
    guest.process.command(MUNMAP, unmapped, PAGE)
    guest.process.again()
    assert guest.process.wait()
    # Where the first frame, its vectors and the frames of signals are.
    for at in (STACK + 0x1100, STACK + 0x2340, END - 0x2000, END - 8):
        guest.process.poke(at - CONTROL, b"register")
    assert unmapped.to_bytes(8, "little") in guest.process.shared()

    wiped(guest.process)

    assert unmapped.to_bytes(8, "little") not in guest.process.shared()
    assert b"register" not in guest.process.shared()


def test_queued_commands_are_not_wiped(make: Make) -> None:
    guest = make(SYSCALL)
    guest.process.command(MUNMAP, DATA, PAGE)
    guest.process.renew()
    guest.process.again()

    assert guest.process.wait()
    assert DATA not in [first for first, _, _ in guest.memory()]
