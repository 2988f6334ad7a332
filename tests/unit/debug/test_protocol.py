"""Packets of gdb's remote protocol, whole, broken and hostile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlet.debug.protocol import (
    PACKET_SIZE,
    Event,
    Parser,
    ProtocolError,
    Signal,
    escape,
    frame,
    number,
    numbers,
    octets,
    unescape,
)


def parse(data: bytes) -> list[Event]:
    return list(Parser().feed(data))


def test_frame_of_the_manual() -> None:
    assert frame(b"OK") == b"$OK#9a"


def test_packet() -> None:
    assert parse(b"$g#67") == [b"g"]


def test_upper_case_checksum() -> None:
    assert parse(b"$jm#D7" + b"$OK#9A") == [b"jm", b"OK"]


@pytest.mark.parametrize("data", [b"$g#68", b"$g#zz", b"$g#6", b"$g#-7"])
def test_wrong_checksum(data: bytes) -> None:
    assert b"g" not in parse(data)


def test_broken_packet_is_reported() -> None:
    assert parse(b"$g#00$g#67") == [Signal.BROKEN, b"g"]


def test_packet_that_begins_anew() -> None:
    assert parse(b"$lost$g#67") == [b"g"]


def test_events_between_packets() -> None:
    assert parse(b"+\x03-") == [Signal.ACK, Signal.INTERRUPT, Signal.NACK]


def test_interrupt_within_a_packet_is_data() -> None:
    assert parse(frame(b"X0,1:\x03")) == [b"X0,1:\x03"]


def test_packet_in_pieces() -> None:
    parser = Parser()

    events = [event for byte in frame(b"qC}#$*") for event in parser.feed(bytes([byte]))]

    assert events == [b"qC}#$*"]


def test_packet_too_long() -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        parse(b"$" + b"a" * (PACKET_SIZE + 1))


def test_longest_packet() -> None:
    assert parse(frame(b"a" * PACKET_SIZE)) == [b"a" * PACKET_SIZE]


def test_packet_that_ends_within_an_escape() -> None:
    with pytest.raises(ProtocolError, match="escape"):
        parse(b"$}#7d")


@given(st.binary(max_size=300))
def test_escapes_are_undone(data: bytes) -> None:
    assert unescape(escape(data)) == data
    assert not {ord("$"), ord("#")} & set(escape(data))


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\n\r\n$g#67", b"\n", b"+$g#67#", b"\xff"])
def test_bytes_that_gdb_does_not_send(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="outside"):
        parse(data)


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 50))
def test_packets_in_pieces_of_any_size(packets: list[bytes], size: int) -> None:
    data = b"+".join(map(frame, packets))
    parser = Parser()

    events = [e for at in range(0, len(data), size) for e in parser.feed(data[at : at + size])]

    assert [event for event in events if event is not Signal.ACK] == packets


@given(st.binary(max_size=2000))
def test_any_bytes_are_events_or_an_error(data: bytes) -> None:
    try:
        events = parse(data)
    except ProtocolError:
        return
    assert all(isinstance(event, bytes | Signal) for event in events)


def test_numbers() -> None:
    assert numbers(b"ffffffff81000000,1,4", 3) == [0xFFFFFFFF81000000, 1, 4]


@pytest.mark.parametrize("text", [b"", b"g", b"0x1", b"1" * 17, b"-1", b"1_0", b" 1", b"\xff"])
def test_not_a_number(text: bytes) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        number(text)


@pytest.mark.parametrize("text", [b"1", b"1,2,3", b"1,,2", b",", b"1,2,"])
def test_not_two_numbers(text: bytes) -> None:
    with pytest.raises(ValueError, match="number"):
        numbers(text, 2)


def test_octets() -> None:
    assert octets(b"00fFa1") == b"\x00\xff\xa1"


@pytest.mark.parametrize("text", [b"0", b"0g", b"0 0", b"\xff\xff"])
def test_not_octets(text: bytes) -> None:
    with pytest.raises(ValueError, match="hexa"):
        octets(text)
