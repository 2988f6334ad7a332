"""What a guest's serial ports are connected to."""

from pathlib import Path

import pytest

from ringlet.cli.consoles import CommandStreams, Quiet, Stdio, console_for
from ringlet.errors import ConfigError


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


def test_status_of_a_command_comes_by_the_fourth_port() -> None:
    streams = CommandStreams(lambda data: None)
    with streams:
        wires = streams.wires()
        assert len(wires) == 4
        wires[3].sink(b"exit 5\n")
        assert streams.told.status == 5
