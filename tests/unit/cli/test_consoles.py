"""What a guest's serial ports are connected to."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ringlet.cli.consoles import CommandStreams, Quiet, Stdio, _Feed, console_for
from ringlet.errors import ConfigError
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
