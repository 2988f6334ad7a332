"""What a guest's serial ports are connected to."""

import errno
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ringlet.cli.commands import EitherCommand, Task
from ringlet.cli.consoles import Booted, CommandStreams, Quiet, Stdio, _Feed, console_for
from ringlet.cli.terminal import WindowSize
from ringlet.control.agent.agent import Agent
from ringlet.errors import CommandError, ConfigError
from ringlet.images.channel import FRAME_SIZE
from ringlet.machine.outcome import quit_by_user
from ringlet.machine.pc import Pc


def test_console_by_its_option(tmp_path: Path) -> None:
    assert isinstance(console_for("stdio"), Stdio)
    assert isinstance(console_for("none"), Quiet)
    log = tmp_path / "log"
    with console_for(f"file:{log}") as console:
        console.wires()[0].sink(b"text")
    assert log.read_bytes() == b"text"


@pytest.mark.parametrize("option", ["", "file:", "tcp:1", "file:/no/such/directory/x"])
def test_console_that_is_none(option: str) -> None:
    with pytest.raises(ConfigError, match="--console"):
        console_for(option)


def test_a_fifo_that_nothing_reads_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    with pytest.raises(ConfigError, match="cannot write the file: nothing reads this FIFO"):
        console_for(f"file:{fifo}")


def test_a_fifo_that_something_reads_is_written_like_a_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with console_for(f"file:{fifo}") as console:
        console.wires()[0].sink(b"text")

    assert os.read(reader, 100) == b"text"
    os.close(reader)


def test_status_of_a_command_comes_by_the_fourth_port() -> None:
    streams = CommandStreams(lambda data: None)
    with streams:
        wires = streams.wires()
        assert len(wires) == 4
        wires[3].sink(b"exit 5\n")
        assert streams.told.status == 5


def test_a_frame_waits_until_the_guest_asks_for_it() -> None:
    streams = CommandStreams(lambda data: None)
    with streams:
        wires = streams.wires()
        source = wires[1].source
        assert source is not None
        sender = threading.Thread(target=streams._send, args=(b"x" * (FRAME_SIZE + 1),))
        sender.start()
        sender.join(0.05)
        assert (sender.is_alive(), source(100)) == (True, b"")

        wires[3].sink(b"next\n")
        first = b""
        while len(first) < FRAME_SIZE + 6:
            first += source(FRAME_SIZE)
        assert sender.is_alive()

        wires[3].sink(b"next\n")
        sender.join(10)
        assert (sender.is_alive(), source(100)) == (False, b"1\nx")


def test_a_wait_for_the_guests_request_ends_with_the_run() -> None:
    streams = CommandStreams(lambda data: None)
    with streams:
        streams.wires()
        sender = threading.Thread(target=streams._send, args=(bytes(5 * FRAME_SIZE),))
        sender.start()
    sender.join(10)
    assert not sender.is_alive()


def test_end_of_a_run_that_has_not_begun_is_remembered() -> None:
    """Ctrl-A x may come before there is a machine."""
    feed = _Feed(0)
    ended: list[object] = []
    machine = SimpleNamespace(stop=ended.append)

    feed.quit()
    assert not ended
    feed.attach(cast("Pc", SimpleNamespace(machine=machine)))

    assert ended == [quit_by_user()]


# --- a guest that its own init has booted


class _SttyAgent:
    """Stands for the agent of a guest, and takes its commands."""

    def __init__(self) -> None:
        self.commands: queue.Queue[list[str]] = queue.Queue()
        self.closed = False

    def run(self, argv: list[str], **options: object) -> None:
        self.commands.put(argv)
        raise CommandError("no such program", errno.ENOENT)

    def next(self) -> str:
        return " ".join(self.commands.get(timeout=10))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Booted, _SttyAgent]]:
    """A console that runs, of a machine that has been built; standard input is empty."""
    monkeypatch.setattr("ringlet.cli.consoles._Input.start", lambda *arguments: None)
    monkeypatch.setattr("ringlet.cli.consoles.window_size", lambda fd: None)
    agent = _SttyAgent()
    console = Booted(WindowSize(24, 80))
    console.connect = lambda: cast("Agent", agent)
    with console:
        console.attach(cast("Pc", SimpleNamespace()))
        yield console, agent
    assert agent.closed


def test_size_reaches_a_booted_guest_once_it_prints(
    booted: tuple[Booted, _SttyAgent], capfd: pytest.CaptureFixture[str]
) -> None:
    console, agent = booted
    sink = console.wires()[0].sink
    console._resized(WindowSize(40, 132))
    time.sleep(0.05)
    early = agent.commands.empty()
    sink(b"welcome\n")
    first = agent.next()
    sink(b"box lo")
    sink(b"gin: ")
    second = agent.next()
    console._resized(WindowSize(50, 99))

    assert early
    assert first == second == "stty -F /dev/ttyS0 rows 40 cols 132"
    assert agent.next() == "stty -F /dev/ttyS0 rows 50 cols 99"
    assert capfd.readouterr().out == "welcome\nbox login: "


def test_size_that_has_not_changed_is_not_sent(
    booted: tuple[Booted, _SttyAgent], capfd: pytest.CaptureFixture[str]
) -> None:
    console, agent = booted
    console._resized(WindowSize(24, 80))
    console.wires()[0].sink(b"login: ")
    time.sleep(0.05)

    assert agent.commands.empty()


# --- a command by serial ports, or by the agent, as the guest says


class _NoAgent:
    """Stands for an agent, and refuses what it is asked for."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def popen(self, argv: list[str], **options: object) -> None:
        self.asked.set()
        raise CommandError("no such program", errno.ENOENT)

    def shutdown(self, *, force: bool) -> None:
        assert force

    def close(self) -> None:
        pass


def _either(agent: _NoAgent) -> EitherCommand:
    streams = EitherCommand(Task(["nosuch"]), lambda data: None)
    streams.connect = lambda: cast("Agent", agent)
    streams.attach(cast("Pc", SimpleNamespace(machine=SimpleNamespace(ended=False))))
    return streams


def test_the_agent_runs_the_command_where_the_guest_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent = _NoAgent()
    with _either(agent) as streams:
        control = streams.wires()[3].sink
        control(b"init\n")
        assert not agent.asked.is_set()
        control(b"agent\n")
        assert agent.asked.wait(10)
        while streams.told.status is None:
            agent.asked.wait(0.01)
        control(b"exit 0\n")  # of the agent

    assert streams.told.status == 127
    assert "no such program" in capsys.readouterr().err


def test_serial_ports_carry_the_command_where_the_guest_has_no_port_for_an_agent() -> None:
    agent = _NoAgent()
    with _either(agent) as streams:
        control = streams.wires()[3].sink
        control(b"exit 3\nagent\n")

    assert streams.told.status == 3
