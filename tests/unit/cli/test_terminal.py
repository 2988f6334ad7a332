"""The user's terminal: escapes, and the restoration of its attributes."""

import contextlib
import fcntl
import os
import queue
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringlet.cli.terminal import (
    Action,
    EscapeParser,
    Keyboard,
    RawTerminal,
    Reader,
    WindowSize,
    raw,
    window_size,
)  # fmt: skip
from ringlet.errors import OutputError

ROOT = Path(__file__).parents[3]

# --- escapes


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (b"abc", [b"abc"]),
        (b"\x01x", [Action.QUIT]),
        (b"\x01h", [Action.HELP]),
        (b"\x01\x01", [b"\x01"]),
        (b"a\x01hb\x01xc", [b"a", Action.HELP, b"b", Action.QUIT, b"c"]),
        (b"a\x01\x01b", [b"a\x01b"]),
        (b"\x01ls\n", [b"\x01ls\n"]),
        (b"\x01\x01x", [b"\x01x"]),
        (b"\x03\x1a\x00\xff", [b"\x03\x1a\x00\xff"]),
        (b"\x01", []),
        (b"", []),
    ],
)
def test_input_goes_to_the_guest_or_to_ringlet(typed: bytes, parts: list[bytes | Action]) -> None:
    assert list(EscapeParser().feed(typed)) == parts


def test_an_escape_may_come_in_two_pieces() -> None:
    parser = EscapeParser()
    first, second = list(parser.feed(b"a\x01")), list(parser.feed(b"xb"))

    assert (first, second) == ([b"a"], [Action.QUIT, b"b"])


def test_keyboard_sends_quits_and_helps() -> None:
    sent: list[bytes] = []
    shown: list[bytes] = []
    quits: list[bool] = []
    Keyboard(sent.append, lambda: quits.append(True), shown.append)(b"ls\n\x01h\x01x")

    assert (sent, quits, len(shown)) == ([b"ls\n"], [True], 1)
    assert b"Ctrl-A x" in shown[0]
    assert b"\n" not in shown[0].replace(b"\r\n", b"")


# --- a pseudo-terminal


class Pty:
    """A terminal whose user is the test."""

    def __init__(self) -> None:
        self.user, self.fd = os.openpty()
        self.processes: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        os.close(self.user)
        os.close(self.fd)

    def attributes(self) -> list[object]:
        return list(termios.tcgetattr(self.fd))

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.user, termios.TIOCSWINSZ, struct.pack("<4H", rows, columns, 0, 0))

    def start(self, body: str) -> int:
        """Run `body` with the terminal raw, as a job of a shell would be; return its process id."""
        return self.start_job(
            "with RawTerminal(0, lambda size: say(f'{size.rows}x{size.columns}')):\n"
            "    say(f'pid {os.getpid()}')\n"
            + "".join(f"    {line}\n" for line in body.split("\n"))
        )

    def start_job(self, job: str, *, foreground: bool = True) -> int:
        """Run a program as a job of a shell, which takes the terminal on SIGUSR1 and gives it to
        the job on SIGUSR2; return the process id that it says."""
        job = (
            "import os, signal, sys, time\n"
            "from ringlet.cli.terminal import RawTerminal, Reader\n"
            "def say(text): os.write(1, f'[{text}]'.encode())\n"
        ) + job
        shell = (
            "import fcntl, os, signal, subprocess, sys, termios\n"
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "signal.signal(signal.SIGTTOU, signal.SIG_IGN)\n"
            "take = lambda *_: os.tcsetpgrp(0, os.getpgrp())\n"
            "signal.signal(signal.SIGUSR1, take)\n"
            "def give(*_): os.tcsetpgrp(0, job.pid); os.killpg(job.pid, signal.SIGCONT)\n"
            "signal.signal(signal.SIGUSR2, give)\n"
            f"job = subprocess.Popen([sys.executable, '-c', {job!r}], process_group=0)\n"
            f"os.tcsetpgrp(0, job.pid if {foreground} else os.getpgrp())\n"
            "job.wait()\n"
            "os.write(1, f'[status {job.returncode}]'.encode())\n"
            "signal.pause()\n"
        )
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-c", shell], stdin=self.fd, stdout=self.fd, stderr=self.fd,
                cwd=ROOT, start_new_session=True, env={**os.environ, "PYTHONPATH": python_path()},
            )
        )  # fmt: skip
        said = self.read_until(b"[pid ", b"]")
        return int(said.partition(b"[pid ")[2].partition(b"]")[0])

    def write_and_read(self, keys: bytes, *wanted: bytes) -> bytes:
        """Type `keys`; return the terminal's output once it contains all of `wanted`."""
        os.write(self.user, keys)
        return self.read_until(*wanted)

    def read_until(self, *wanted: bytes) -> bytes:
        """Return the terminal's output once it contains all of `wanted`."""
        got = b""
        while not all(part in got for part in wanted):
            got += os.read(self.user, 4096)
        return got


def python_path() -> str:
    return os.pathsep.join(path for path in sys.path if path)


def state_of(pid: int) -> str:
    """Return the state of a process as /proc tells it: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def pty() -> Iterator[Pty]:
    pty = Pty()
    try:
        yield pty
    finally:
        pty.close()


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signals' handlers after a test."""
    numbers = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    after = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def test_raw_passes_every_byte(pty: Pty) -> None:
    termios.tcsetattr(pty.fd, termios.TCSANOW, raw(termios.tcgetattr(pty.fd)))
    every = bytes(range(256))
    os.write(pty.user, every)
    typed = os.read(pty.fd, 1000)
    os.write(pty.fd, every)
    shown = os.read(pty.user, 1000)

    assert typed == every
    assert shown == every


@pytest.mark.usefixtures("handlers")
def test_terminal_is_raw_inside_and_as_before_after(pty: Pty) -> None:
    before = pty.attributes()
    with RawTerminal(pty.fd):
        inside = pty.is_raw()

    assert inside
    assert pty.attributes() == before


@pytest.mark.usefixtures("handlers")
def test_an_exception_gives_the_terminal_back(pty: Pty) -> None:
    before = pty.attributes()
    with pytest.raises(KeyboardInterrupt), RawTerminal(pty.fd):
        raise KeyboardInterrupt

    assert pty.attributes() == before


@pytest.mark.usefixtures("handlers")
def test_a_file_is_no_terminal(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file, pytest.raises(OutputError, match="the terminal"):
        RawTerminal(file.fileno()).__enter__()


@pytest.mark.usefixtures("handlers")
def test_a_handler_of_the_programs_own_stays(pty: Pty) -> None:
    def mine(number: int, frame: object) -> None: ...

    previous = signal.signal(signal.SIGTERM, mine)
    with RawTerminal(pty.fd):
        inside = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, previous)

    assert inside is mine


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_is_ignored_meanwhile_stays_ignored(pty: Pty) -> None:
    previous = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    with RawTerminal(pty.fd):
        caught = signal.getsignal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    after = signal.signal(signal.SIGUSR1, previous)

    assert (caught is signal.SIG_DFL, after) == (False, signal.SIG_IGN)


@pytest.mark.usefixtures("handlers")
def test_a_terminal_that_is_gone_is_no_error() -> None:
    user, fd = os.openpty()
    with RawTerminal(fd):
        os.close(user)
    os.close(fd)


def test_window_size(pty: Pty) -> None:
    unknown = window_size(pty.fd)
    pty.resize(50, 132)

    assert unknown is None
    assert window_size(pty.fd) == WindowSize(50, 132)
    assert window_size(-1) is None


# --- a job of a shell


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_the_process_gives_the_terminal_back(
    pty: Pty, number: signal.Signals
) -> None:
    before = pty.attributes()
    pid = pty.start("time.sleep(60)")
    inside = pty.is_raw()
    os.kill(pid, number)
    pty.read_until(b"[status %d]" % -number)

    assert inside
    assert pty.attributes() == before


def test_the_terminal_is_given_back_while_the_process_is_stopped(pty: Pty) -> None:
    before = pty.attributes()
    pid = pty.start("time.sleep(60)")
    os.kill(pid, signal.SIGTSTP)
    wait_until(lambda: state_of(pid) == "T")
    stopped = pty.attributes()
    os.kill(pid, signal.SIGCONT)
    wait_until(pty.is_raw)
    os.kill(pid, signal.SIGTSTP)
    wait_until(lambda: state_of(pid) == "T")

    assert stopped == before
    assert pty.attributes() == before


def test_after_a_stop_that_cannot_be_caught_the_terminal_is_raw_again(pty: Pty) -> None:
    before = termios.tcgetattr(pty.fd)
    pid = pty.start("time.sleep(60)")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T")
    termios.tcsetattr(pty.fd, termios.TCSANOW, before)  # as a shell does
    os.kill(pid, signal.SIGCONT)

    wait_until(pty.is_raw)


def test_in_the_background_the_terminal_is_left_alone(pty: Pty) -> None:
    before = termios.tcgetattr(pty.fd)
    body = (
        "os.kill(os.getpid(), signal.SIGTSTP)\n"
        "say('on')\n"
        "time.sleep(60)"
    )  # fmt: skip
    pid = pty.start(body)
    wait_until(lambda: state_of(pid) == "T")
    shell = pty.processes[0]
    shell.send_signal(signal.SIGUSR1)
    wait_until(lambda: os.tcgetpgrp(pty.user) == shell.pid)
    os.kill(pid, signal.SIGCONT)
    pty.read_until(b"[on]")
    after = termios.tcgetattr(pty.fd)
    os.kill(pid, signal.SIGTERM)
    pty.read_until(b"[status %d]" % -signal.SIGTERM)

    assert after == before


def test_what_begins_in_the_background_stops_until_it_has_the_terminal(pty: Pty) -> None:
    before = pty.attributes()
    job = "say(f'pid {os.getpid()}')\nwith RawTerminal(0):\n    say('in')\n    time.sleep(60)\n"
    pid = pty.start_job(job, foreground=False)
    wait_until(lambda: state_of(pid) == "T")
    stopped = pty.attributes()
    pty.processes[0].send_signal(signal.SIGUSR2)
    pty.read_until(b"[in]")

    assert stopped == before
    assert pty.is_raw()


def test_reading_in_the_background_waits_for_the_terminal(pty: Pty) -> None:
    job = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "reader = Reader(0, lambda data: say(data), lambda: say('end'), print)\n"
        "reader.start()\n"
        "say(f'pid {os.getpid()}')\n"
        "time.sleep(60)\n"
    )
    pid = pty.start_job(job, foreground=False)
    os.write(pty.user, b"typed\n")
    wait_until(lambda: state_of(pid) == "T")
    pty.processes[0].send_signal(signal.SIGUSR2)

    assert b"[end]" not in pty.read_until(b"[b'typed\\n']")


def test_a_new_size_is_reported(pty: Pty) -> None:
    pty.start("while True: time.sleep(60)")
    pty.resize(33, 99)

    pty.read_until(b"[33x99]")


# --- the reader


class Collector:
    def __init__(self) -> None:
        self.data = b""
        self.ended = threading.Event()
        self.ends = 0
        self.failures: queue.Queue[Exception] = queue.Queue()

    def fail(self, error: Exception) -> None:
        self.failures.put(error)

    def end(self) -> None:
        self.ends += 1
        self.ended.set()

    def add(self, data: bytes) -> None:
        self.data += data


def test_reader_passes_everything_and_then_the_end() -> None:
    read, write = os.pipe()
    collector = Collector()
    reader = Reader(read, collector.add, collector.end, collector.fail)
    reader.start()
    os.write(write, b"abc")
    os.write(write, b"\0\xff")
    os.close(write)
    collector.ended.wait(10)
    reader.stop()
    os.close(read)

    assert (collector.data, collector.ends) == (b"abc\0\xff", 1)


def test_reader_can_be_stopped_while_nothing_comes() -> None:
    read, write = os.pipe()
    collector = Collector()
    reader = Reader(read, collector.add, collector.end, collector.fail)
    reader.start()
    reader.stop()

    assert not reader._thread.is_alive()
    assert collector.ends == 0
    os.close(read)
    os.close(write)


def test_what_the_taker_raises_is_told() -> None:
    def take(data: bytes) -> None:
        raise ZeroDivisionError

    read, write = os.pipe()
    collector = Collector()
    reader = Reader(read, take, collector.end, collector.fail)
    reader.start()
    os.write(write, b"x")

    assert isinstance(collector.failures.get(timeout=10), ZeroDivisionError)
    assert collector.ends == 0
    reader.stop()
    os.close(read)
    os.close(write)


def test_a_descriptor_that_is_not_for_reading_is_at_its_end() -> None:
    collector = Collector()
    with Path(os.devnull).open("wb") as file:
        reader = Reader(file.fileno(), collector.add, collector.end, collector.fail)
        reader.start()
        ended = collector.ended.wait(10)
        reader.stop()

    assert ended


def test_reader_of_a_terminal_that_hangs_up_ends() -> None:
    user, fd = os.openpty()
    collector = Collector()
    reader = Reader(fd, collector.add, collector.end, collector.fail)
    reader.start()
    os.close(user)
    ended = collector.ended.wait(10)
    reader.stop()
    with contextlib.suppress(OSError):
        os.close(fd)

    assert ended
