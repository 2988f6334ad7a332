"""Whatever a host sends, the agent goes on.  It is built with sanitizers, its children harmless."""

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlet.control.agent import Agent
from ringlet.guest.protocol import (
    HEADER,
    INPUT_WINDOW,
    MAX_PAYLOAD,
    WORD,
    Entry,
    Flag,
    Kind,
    Operation,
    Request,
    Tag,
    frame,
    hello,
)
from tests.unit.control.agent.native import native_agent, start
from tests.unit.guest.build import build_with_sanitizers


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_with_sanitizers(tmp_path_factory.mktemp("agent"), harmless=True)


@pytest.fixture(scope="module")
def stream(harmless: Path) -> Iterator[socket.socket]:
    """One agent for all that is sent; at the end it has not complained."""
    process, stream = start(harmless)
    stream.settimeout(30)
    yield stream
    stream.close()
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (0, b"")


def answers(stream: socket.socket, nonce: bytes) -> None:
    """Fail unless the agent answers a greeting."""
    stream.sendall(hello(nonce))
    seen = b""
    while hello(nonce) not in seen:
        part = stream.recv(1 << 16)
        assert part, "the agent has ended"
        seen = seen[-100:] + part


NONCES = iter(range(1, 1 << 40))


def greet(stream: socket.socket) -> None:
    answers(stream, struct.pack("<Q", next(NONCES)))


PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.builds(WORD.pack, st.integers(0, 2**32 - 1)),
    st.builds(
        lambda operation, fields, flags, window: Request(
            operation, tuple(fields), flags, window=window
        ).encode(),
        st.sampled_from(Operation),
        st.lists(st.tuples(st.sampled_from(Tag), st.binary(max_size=20)), max_size=5),
        st.sampled_from([Flag.NONE, Flag.TERMINAL, Flag.NO_INPUT, Flag.MERGE]),
        st.sampled_from([0, 1, 1000, 2**32 - 1]),
    ),
)  # fmt: skip
FRAMES = st.builds(
    frame, st.sampled_from([0, 1, 2, 3, 2**32 - 1]), st.sampled_from(Kind), PAYLOADS
)
HEADERS = st.builds(HEADER.pack, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))


@given(script=st.lists(st.one_of(FRAMES, FRAMES, FRAMES, HEADERS, st.binary(max_size=30)),
                       max_size=30))  # fmt: skip
def test_any_frames_leave_an_agent_that_answers(stream: socket.socket, script: list[bytes]) -> None:
    greet(stream)

    for part in script:
        stream.sendall(part)

    # A header may have promised a payload, of which a greeting is the beginning.
    stream.sendall(bytes(MAX_PAYLOAD + 8))
    greet(stream)


def test_input_without_credit_ends_the_session(stream: socket.socket) -> None:
    greet(stream)
    # A window of no output: the child soon reads no more.
    stream.sendall(frame(1, Kind.OPEN, Request(Operation.EXEC).encode()))

    for _ in range(4):
        stream.sendall(frame(1, Kind.DATA_IN, bytes(INPUT_WINDOW)))

    seen = b""
    while hello(bytes(8)) not in seen:
        seen = seen[-100:] + stream.recv(1 << 16)
    greet(stream)


def test_host_that_reads_nothing_stops_the_agent_only_while_it_does(stream: socket.socket) -> None:
    greet(stream)
    request = frame(1, Kind.OPEN, Request(Operation.TIME).encode())
    answer = frame(1, Kind.RESULT, struct.pack("<QQ", 1, 1))
    stream.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 100_000_000:
            sent += stream.send(request * 100)
    assert sent < 100_000_000
    stream.settimeout(30)

    left = sent // len(request) * len(answer)
    assert left > 500_000
    while left:
        part = stream.recv(1 << 16)
        assert part
        left -= len(part)
    # The rest of the request that was cut.
    stream.sendall(request[sent % len(request) :])
    assert stream.recv(1000) == answer


def test_other_versions_are_answered_with_ours(stream: socket.socket) -> None:
    stream.sendall(hello(b"versions", 5, 9))

    seen = b""
    while hello(b"versions") not in seen:
        seen += stream.recv(1 << 16)
    greet(stream)


def test_new_greeting_begins_anew(stream: socket.socket) -> None:
    greet(stream)
    stream.sendall(frame(1, Kind.OPEN, Request(Operation.EXEC, window=1000).encode()))

    greet(stream)

    stream.sendall(frame(1, Kind.OPEN, Request(Operation.TIME).encode()))
    assert stream.recv(1000) == frame(1, Kind.RESULT, struct.pack("<QQ", 1, 1))


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    program = build_with_sanitizers(tmp_path_factory.mktemp("agent"), harmless=False)
    with native_agent(program) as agent:
        yield agent


def test_any_tree_is_taken_or_refused(checked: Agent, tmp_path: Path) -> None:
    """The agent's reading of trees, with pieces that belong together and pieces that do not."""
    pieces = [
        Entry(b"d", 0o040755).encode(), Entry(b"e", 0o040755).encode(), bytes(64),
        Entry(b"f", 0o100644).encode() + WORD.pack(3) + b"abc" + WORD.pack(0),
        Entry(b"l", 0o120777, target=b"d").encode(), Entry(b"d", 0o120777, target=b"f").encode(),
        Entry(b"h", 0o100644, target=b"f").encode(), Entry(b"p", 0o010600).encode(),
        Entry(b"../x", 0o100644).encode(), Entry(b"", 0o100644).encode(),
        Entry(b"n" * 300, 0o100644).encode(), Entry(b"s", 0o140755).encode(),
        WORD.pack(70_000) + bytes(70_000), b"\xff" * 10, bytes([0o100]),
    ]  # fmt: skip
    chance = random.Random(5)
    for number in range(60):
        room = tmp_path / str(number)
        room.mkdir()
        request = Request(
            Operation.COPY_IN, ((Tag.PATH, bytes(room / "copy")),), window=1 << 16
        )
        channel = checked._ready().open(request)
        data = memoryview(pieces[0] + b"".join(chance.choices(pieces, k=chance.randint(1, 12))))
        while data and channel.input_is_open:
            with channel.changed:
                channel.wait(channel.can_send, None)
            try:
                data = data[channel.send_input(data) :]
            except BrokenPipeError:
                break
        channel.end_input()
        with channel.changed:
            channel.wait(lambda: channel.closed, None)  # noqa: B023  used before the next turn

        # A sanitizer's complaint would be another status.
        assert "Exited(code=0)" in str(channel.end) or "Refused" in str(channel.end)
        assert {path.name for path in room.iterdir()} <= {"copy"}
