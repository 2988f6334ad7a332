"""Signals that end the process at once, sent to it or to its vCPU's thread.

It dies of them, and its terminal is as it was before.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.unit.cli.test_terminal import Pty

pytestmark = pytest.mark.timeout(30)

DEADLY = [
    signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGABRT,
    signal.SIGSYS,
]  # fmt: skip
SYS_TGKILL = 234
WHERE = {"guest code": "EBFE", "page faults": "8B06 4881C600100000 EBF5", "halt": "FB F4 EBFD"}


def job(code: str, act: str = "time.sleep(60)") -> str:
    """A processor that runs `code` in a thread of its own, while the main thread does `act`."""
    return "\n".join(
        (
            "import ctypes, resource, threading",
            "sys.path.insert(0, os.getcwd())",
            "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
            "from tests.unit.vcpu.board import CODE, DATA, PDPT, Board",
            "board = Board()",
            "board.poke(PDPT + 16, 0xA007)",
            "board.poke(0xA000, *[0xB007] * 512)",
            "board.poke(0xB000, *[DATA | 0x67] * 512)",
            "board.p.wait_in_halt()",
            f"board.place('{code}')",
            "board.set(rsi=2 << 30)",
            "thread = threading.Thread(target=board.p.run, daemon=True)",
            "thread.start()",
            "time.sleep(0.2)",
            "say(f'thread {thread.native_id} {thread.is_alive()}')",
            act,
        )
    )


def thread_of(pty: Pty) -> int:
    said = pty.read_until(b"[thread ", b"]")
    number, alive = said.partition(b"[thread ")[2].partition(b"]")[0].split()
    assert alive == b"True"
    return int(number)


@pytest.fixture
def pty() -> Iterator[Pty]:
    pty = Pty()
    try:
        yield pty
    finally:
        pty.close()


@pytest.mark.parametrize("to_thread", [False, True], ids=["process", "thread"])
@pytest.mark.parametrize("number", DEADLY)
@pytest.mark.parametrize("where", ["guest code", "halt"])
def test_a_deadly_signal_ends_the_process_and_gives_the_terminal_back(
    pty: Pty, where: str, number: signal.Signals, *, to_thread: bool
) -> None:
    before = pty.attributes()
    pid = pty.start(job(WHERE[where]))
    thread = thread_of(pty)
    inside = pty.is_raw()
    if to_thread:
        ctypes.CDLL(None).syscall(SYS_TGKILL, pid, thread, number)
    else:
        os.kill(pid, number)
    pty.read_until(b"[status %d]" % -number)

    assert inside
    assert pty.attributes() == before


def test_a_signal_that_was_sent_is_not_taken_for_the_fault_before_it(pty: Pty) -> None:
    pid = pty.start(job(WHERE["page faults"]))
    thread = thread_of(pty)
    # Linux drops a signal that is sent while the same signal, here that of a fault, is queued.
    while ctypes.CDLL(None).syscall(SYS_TGKILL, pid, thread, signal.SIGSEGV) == 0:
        time.sleep(0.05)

    pty.read_until(b"[status %d]" % -signal.SIGSEGV)


@pytest.mark.parametrize(
    ("act", "number"), [("ctypes.string_at(8)", signal.SIGSEGV), ("os.abort()", signal.SIGABRT)]
)
def test_a_fault_of_the_hosts_own_code_ends_it_as_well(
    pty: Pty, act: str, number: signal.Signals
) -> None:
    before = pty.attributes()
    pty.start(job(WHERE["guest code"], act))
    pty.read_until(b"[status %d]" % -number)

    assert pty.attributes() == before
