"""Frames are cut from whatever bytes come."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlet.control.agent import frames
from ringlet.control.agent.frames import BUFFER, FrameReader
from ringlet.errors import AgentError
from ringlet.guest.protocol import (
    HEADER,
    MAX_PAYLOAD,
    Entry,
    Kind,
    decode_entry,
    frame,
    hello,
)

NONCE = b"12345678"
FRAMES = st.tuples(
    st.integers(0, 2**32 - 1), st.sampled_from(Kind), st.binary(max_size=300)
)  # fmt: skip


def put(reader: FrameReader, data: bytes) -> None:
    reader.space()[: len(data)] = data
    reader.received(len(data))


@given(sent=st.lists(FRAMES, max_size=20), cuts=st.lists(st.integers(1, 700), max_size=50))
def test_frames_arrive_however_they_are_cut(
    sent: list[tuple[int, Kind, bytes]], cuts: list[int]
) -> None:
    data = b"".join(frame(*one) for one in sent)
    reader = FrameReader()
    got = []
    for size in [*cuts, len(data)]:
        part, data = data[:size], data[size:]
        put(reader, part)
        got += [(channel, kind, bytes(payload)) for channel, kind, payload in reader.take()]

    assert got == sent


@given(data=st.binary(max_size=2000))
def test_any_bytes_are_frames_or_an_error(data: bytes) -> None:
    reader = FrameReader()
    put(reader, data)

    taken = 0
    with contextlib.suppress(AgentError):
        for _, _, payload in reader.take():
            taken += len(payload) + 8
    assert taken <= len(data)


def test_largest_frames_always_find_room() -> None:
    reader = FrameReader()
    data = frame(1, Kind.DATA_OUT, bytes(MAX_PAYLOAD)) * 9
    count = 0
    while data:
        size = min(len(reader.space()), 99_991, len(data))
        assert size
        put(reader, data[:size])
        data = data[size:]
        count += len(list(reader.take()))

    assert count == 9


@pytest.mark.parametrize("word", [Kind.DATA_OUT << 24 | (MAX_PAYLOAD + 1), 0xFF000001, 0])
def test_header_that_cannot_be_is_refused(word: int) -> None:
    reader = FrameReader()
    put(reader, HEADER.pack(1, word))

    with pytest.raises(AgentError, match="broke the protocol: a frame of"):
        list(reader.take())


@given(before=st.binary(max_size=300), old=st.binary(min_size=8, max_size=8),
       step=st.integers(1, 40))  # fmt: skip
def test_greeting_is_found_behind_what_was_left(before: bytes, old: bytes, step: int) -> None:
    reader = FrameReader()
    data = before + hello(old) + hello(bytes(8)) + before + hello(NONCE, 2, 5)
    found = None
    for start in range(0, len(data), step):
        assert found is None
        put(reader, data[start : start + step])
        found = reader.find_hello(NONCE) if old != NONCE else (2, 5)

    assert found == (2, 5)
    assert reader.announced or old == NONCE


def test_endless_garbage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_SKIPPED", 1 << 21)
    reader = FrameReader()

    def go_on() -> None:
        for _ in range(100):
            put(reader, bytes(BUFFER // 4))
            reader.find_hello(NONCE)

    with pytest.raises(AgentError, match="came without a greeting"):
        go_on()


@given(record=st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_a_value_error(record: bytes) -> None:
    try:
        entry = decode_entry(record)
    except ValueError:
        return
    assert entry.encode() == record


@given(name=st.binary(max_size=255), target=st.binary(max_size=300),
       modified=st.integers(-(2**62), 2**62), size=st.integers(0, 2**64 - 1))  # fmt: skip
def test_entries_come_back(name: bytes, target: bytes, modified: int, size: int) -> None:
    entry = Entry(
        name.replace(b"\0", b""), 0o100644, size=size, modified=modified,
        target=target.replace(b"\0", b""),
    )  # fmt: skip

    assert decode_entry(entry.encode()) == entry
