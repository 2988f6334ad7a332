"""Port B, the debug exit port, and output to a descriptor."""

import os
import threading
from pathlib import Path

import pytest

from ringlet.devices.backends.fd_sink import FdSink
from ringlet.devices.debug_exit import DebugExit
from ringlet.devices.port_a import A20, RESET, PortA
from ringlet.devices.port_b import PortB
from ringlet.errors import OutputError


@pytest.mark.parametrize(("value", "status"), [(0, 1), (1, 3), (0x10, 0x21), (0x7F, 0xFF)])
def test_debug_exit_status_is_the_value_doubled_plus_one(value: int, status: int) -> None:
    seen: list[int] = []
    DebugExit(seen.append).write(0, 1, value)

    assert seen == [status]


def test_debug_exit_status_fits_in_eight_bits() -> None:
    seen: list[int] = []
    DebugExit(seen.append).write(0, 4, 0x12345678)

    assert seen == [0xF1]


def test_port_b_drives_the_gate_and_shows_the_output() -> None:
    gate: list[bool] = []
    port = PortB(gate.append, lambda: True)
    port.write(0, 1, 0xFF)

    assert gate == [False, True]
    assert port.read(0, 1) & 0x23 == 0x23


def test_port_b_refresh_bit_toggles() -> None:
    port = PortB(lambda level: None, lambda: False)

    assert (port.read(0, 1) ^ port.read(0, 1)) & 0x10


def test_port_b_saves_and_restores() -> None:
    port = PortB(lambda level: None, lambda: False)
    port.write(0, 1, 3)
    other = PortB(lambda level: None, lambda: False)
    other.restore(port.save())

    assert other.read(0, 1) & 3 == 3


def test_sink_writes_every_byte_at_once() -> None:
    reader, writer = os.pipe()
    FdSink(writer)(bytes(range(256)))
    got = os.read(reader, 1000)
    os.close(reader)
    os.close(writer)

    assert got == bytes(range(256))


def test_sink_waits_for_a_full_non_blocking_pipe() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = bytes(300_000)
    got = bytearray()

    def drain() -> None:
        while len(got) < len(data):
            got.extend(os.read(reader, 65536))

    thread = threading.Thread(target=drain)
    thread.start()
    FdSink(writer)(data)
    thread.join(10)
    os.close(reader)
    os.close(writer)

    assert bytes(got) == data


def test_sink_says_when_the_reader_is_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    with pytest.raises(OutputError, match="closed by its reader"):
        FdSink(writer)(b"x")
    os.close(writer)


def test_sink_says_when_the_disk_is_full() -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OutputError, match="No space"),
    ):
        FdSink(full.fileno())(b"x")


def test_port_a_drives_a20_and_resets_when_its_bit_rises() -> None:
    levels: list[bool] = []
    resets: list[None] = []
    port = PortA(levels.append, lambda: resets.append(None), enabled=True)

    for value in (0, RESET, RESET | A20, 0xFF):
        port.write(0, 1, value)

    assert (levels, len(resets)) == ([True, False, False, True, True], 1)
    assert port.read(0, 1) == RESET | A20


def test_port_a_saves_and_restores() -> None:
    levels: list[bool] = []
    state = PortA(levels.append, enabled=True).save()
    other = PortA(levels.append)

    other.restore(state)

    assert (other.read(0, 1), levels) == (A20, [True, False, True])
