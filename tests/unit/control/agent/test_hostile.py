"""A guest that does not keep to the protocol: one clear error, no wait without end."""

import contextlib
import errno
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlet.control.agent import Agent, Process, connection
from ringlet.control.agent.channel import WINDOW
from ringlet.errors import (
    AgentError,
    AgentTimeoutError,
    CommandTimeoutError,
    HostError,
    RingletError,
)
from ringlet.guest.protocol import (
    HEADER,
    HEADER_SIZE,
    INPUT_WINDOW,
    MAX_PAYLOAD,
    WORD,
    Kind,
    decode_hello,
    frame,
    hello,
)
from tests.unit.control.agent.native import names


class Guest:
    """The other end, which a test plays."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        stream.settimeout(20)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.stream.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def receive(self) -> tuple[int, Kind, bytes]:
        channel, word = HEADER.unpack(self.exactly(HEADER_SIZE))
        return channel, Kind(word >> 24), self.exactly(word & 0xFFFFFF)

    def greet(self, lowest: int = 1, highest: int = 1) -> None:
        _, kind, payload = self.receive()
        assert kind is Kind.HELLO
        self.stream.sendall(hello(decode_hello(payload)[0], lowest, highest))

    def opened(self) -> int:
        """Return the channel of the operation that the host asks for next."""
        while True:
            channel, kind, _ = self.receive()
            if kind is Kind.OPEN:
                return channel

    def send(self, channel: int, kind: Kind, payload: bytes = b"") -> None:
        self.stream.sendall(frame(channel, kind, payload))


@pytest.fixture
def pair() -> Iterator[tuple[Agent, Guest]]:
    ours, its = socket.socketpair()
    with Agent(ours, start_timeout=20) as agent, its:
        yield agent, Guest(its)


class Call:
    """A call in another thread."""

    def __init__(self, function: object) -> None:
        self.error: BaseException | None = None
        self.result: object = None
        self._function = function
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._function()  # type: ignore[operator]  # the caller's function
        except RingletError as error:
            self.error = error

    def wait(self) -> BaseException | None:
        """Wait for its end, and return its error."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.error


STARTED = (Kind.STARTED, WORD.pack(5))
EXIT = (Kind.EXIT, struct.pack("<i", 0))
CLOSED = (Kind.CLOSED, b"")


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([(Kind.DATA_OUT, b"")], "output without credit"),
        ([(Kind.DATA_OUT, bytes(MAX_PAYLOAD))] * 5, "output without credit"),
        ([(Kind.END_OUT, b""), (Kind.DATA_OUT, b"x")], "output without credit"),
        ([(Kind.END_OUT, b"x")], "a frame of kind END_OUT with 1 bytes"),
        ([(Kind.END_ERR, b""), (Kind.END_ERR, b"")], "an output that ends twice"),
        ([(Kind.END_IN, b""), (Kind.END_IN, b"")], "an input that ends twice"),
        ([(Kind.CREDIT_IN, WORD.pack(1))], "credit for input that was not sent"),
        ([(Kind.CREDIT_IN, b"x")], "a credit of a wrong length"),
        ([STARTED, STARTED], "a process that starts twice"),
        ([(Kind.STARTED, b"")], "a start of a wrong length"),
        ([(Kind.EXIT, b"")], "an exit of a wrong length"),
        ([(Kind.EXIT, struct.pack("<i", 256))], "an exit status of 256"),
        ([(Kind.EXIT, struct.pack("<i", -65))], "an exit status of -65"),
        ([EXIT, EXIT], "an operation that ends twice"),
        ([CLOSED], "an operation without an end"),
        ([EXIT, CLOSED, (Kind.DATA_OUT, b"x")], "a frame for channel 1, which is not open"),
        ([(Kind.ERROR, struct.pack("<II", 2, 99))], "an error that is none"),
        ([(Kind.ERROR, struct.pack("<II", 0, 0))], "an error that is none"),
        ([(Kind.ERROR, struct.pack("<II", 2, 0) + bytes(600))], "an error of a wrong length"),
        ([(Kind.OPEN, b"")], "a frame of kind OPEN"),
        ([(Kind.SIGNAL, b"1234")], "a frame of kind SIGNAL with 4 bytes"),
        ([(Kind.RESULT, b"")], "a command without a status"),
        ([(Kind.HELLO, b"")], "the agent in the guest has started again"),
    ],
)  # fmt: skip
def test_frames_that_cannot_be_end_the_connection(
    pair: tuple[Agent, Guest], frames: list[tuple[Kind, bytes]], message: str
) -> None:
    agent, guest = pair
    process = Call(lambda: agent.popen("cat").wait())
    guest.greet()
    channel = guest.opened()
    for kind, payload in frames:
        guest.send(channel, kind, payload)

    process.wait()
    told = process.error
    if not isinstance(told, AgentError):  # the call had ended before
        _wait_closed(agent)
        told = Call(lambda: agent.run("true")).wait()
    assert isinstance(told, AgentError)
    assert message in str(told)


def _wait_closed(agent: Agent) -> None:
    end = time.monotonic() + 20
    while not agent.closed and time.monotonic() < end:
        time.sleep(0.005)
    assert agent.closed


@pytest.mark.parametrize("channel", [0, 2, 0xFFFFFFFF])
def test_unknown_channel_ends_the_connection(pair: tuple[Agent, Guest], channel: int) -> None:
    agent, guest = pair
    call = Call(lambda: agent.run("true"))
    guest.greet()
    guest.opened()

    guest.send(channel, Kind.DATA_OUT, b"x")

    call.wait()
    assert str(call.error) == (
        "the agent in the guest broke the protocol: a frame for channel "
        f"{channel}, which is not open; the connection is closed")  # fmt: skip


def test_guest_that_never_answers(pair: tuple[Agent, Guest]) -> None:
    agent, _ = pair
    agent._start_timeout = 0.3

    with pytest.raises(AgentTimeoutError, match=r"has not answered within 0\.3 s; see on the con"):
        agent.run("true")


def test_other_version_is_told(pair: tuple[Agent, Guest]) -> None:
    agent, guest = pair
    guest.greet(7, 9)

    with pytest.raises(AgentError, match="speaks versions 7 to 9 of the protocol, and Ringlet 1"):
        agent.run("true")


def test_agent_that_starts_later_is_greeted_again() -> None:
    ours, its = socket.socketpair()
    with Agent(ours) as agent, its:
        guest = Guest(its)
        guest.receive()  # lost: nobody listened yet
        its.sendall(hello(bytes(8)))
        guest.greet()

        agent.wait_ready(20)


def test_guest_that_ends_wakes_everyone(pair: tuple[Agent, Guest]) -> None:
    agent, guest = pair
    calls = [Call(lambda: agent.run("cat")) for _ in range(5)]
    calls += [Call(lambda: agent.files.read("/x", timeout=None)), Call(agent.info)]
    guest.greet()
    for _ in calls:
        guest.opened()

    guest.stream.close()

    for call in calls:
        call.wait()
        assert str(call.error) == "the connection to the agent in the guest has ended"


def test_poll_does_not_wait_for_a_guest_that_has_ended(pair: tuple[Agent, Guest]) -> None:
    agent, guest = pair
    call = Call(lambda: agent.popen("x"))
    guest.greet()
    guest.send(guest.opened(), *STARTED)
    call.wait()
    process = call.result
    assert isinstance(process, Process)
    assert process.poll() is None

    guest.stream.close()
    with pytest.raises(AgentError, match="has ended"):
        process.wait(20)

    with pytest.raises(AgentError, match="has ended"):
        process.poll()
    assert "running" in repr(process)


def test_command_that_never_ends_has_its_timeout(
    pair: tuple[Agent, Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringlet.control.agent.process._GRACE", 0.2)
    agent, guest = pair
    call = Call(lambda: agent.run("true", timeout=0.2))
    guest.greet()
    guest.opened()

    call.wait()

    assert isinstance(call.error, CommandTimeoutError)


def test_every_other_call_has_its_timeout(pair: tuple[Agent, Guest]) -> None:
    agent, guest = pair
    calls = [
        Call(lambda: agent.popen("true", timeout=0.2)),
        Call(lambda: agent.info(0.2)),
        Call(lambda: agent.sync(0.2)),
        Call(lambda: agent.files.write("/x", bytes(1 << 20), timeout=0.2)),
        Call(lambda: agent.files.list("/x", timeout=0.2)),
    ]
    guest.greet()

    for call in calls:
        call.wait()
        assert isinstance(call.error, TimeoutError)


def test_guest_that_reads_nothing_does_not_fill_the_host(
    pair: tuple[Agent, Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_QUEUED", 5 << 20)
    agent, guest = pair
    call = Call(lambda: [agent.popen("x" * 100_000) for _ in range(200)])
    guest.greet()
    channel = 1
    while not agent.closed:
        if channel in agent._connection._channels:
            guest.send(channel, *STARTED)
            channel += 1
        time.sleep(0.002)

    call.wait()
    assert channel < 100
    assert "reads nothing" in str(call.error)


def test_input_waits_for_a_guest_that_reads_nothing(pair: tuple[Agent, Guest]) -> None:
    agent, guest = pair
    call = Call(lambda: agent.run("cat", input=bytes(10 * INPUT_WINDOW), timeout=1))
    guest.greet()

    call.wait()

    assert isinstance(call.error, CommandTimeoutError)
    assert agent._connection._queued < 2 * INPUT_WINDOW


def test_flood_of_tiny_frames_takes_no_memory(
    pair: tuple[Agent, Guest], monkeypatch: pytest.MonkeyPatch
) -> None:
    window = WINDOW // 4
    monkeypatch.setattr("ringlet.control.agent.channel.WINDOW", window)
    agent, guest = pair
    call = Call(lambda: agent.popen("x"))
    guest.greet()
    channel = guest.opened()
    guest.send(channel, *STARTED)
    call.wait()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flood = frame(channel, Kind.DATA_OUT, b"x") * 20_000

    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(2 * window // 20_000):
            guest.stream.sendall(flood)
    # The connection ends because the frames exceed the credit.
    _wait_closed(agent)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


FRAMES = st.builds(
    frame,
    st.sampled_from([0, 1, 1, 1, 2]), st.sampled_from(Kind),
    st.sampled_from([b"", b"x", bytes(4), b"\1\0\0\0", bytes(8), b"\2\0\0\0\5\0\0\0name"]),
)  # fmt: skip


@given(script=st.lists(st.one_of(FRAMES, FRAMES, st.binary(max_size=20)), max_size=12))
def test_whatever_the_guest_says_the_call_ends(script: list[bytes]) -> None:
    ours, its = socket.socketpair()
    with Agent(ours, start_timeout=20) as agent, its:
        guest = Guest(its)
        call = Call(lambda: agent.run("cat", input="data"))
        guest.greet()
        guest.opened()
        try:
            its.sendall(b"".join(script))
            its.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        call.wait()

    assert call.error is not None or call.result is not None


def test_file_that_is_collected_while_a_frame_is_sent_ends_afterwards(
    pair: tuple[Agent, Guest],
) -> None:
    agent, guest = pair
    call = Call(lambda: agent.popen("x"))
    guest.greet()
    channel = guest.opened()
    guest.send(channel, *STARTED)
    call.wait()

    with agent._connection._lock:
        call.result = None  # the only reference

    ends = {guest.receive()[:2] for _ in range(3)}
    assert ends == {(channel, kind) for kind in (Kind.END_IN, Kind.END_OUT, Kind.END_ERR)}


def test_host_without_threads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ours, its = socket.socketpair()
    monkeypatch.setattr(threading.Thread, "start", refuse)

    with its, pytest.raises(HostError, match="the host allows no more threads"):
        Agent(ours)
    assert ours.fileno() == -1


def test_host_without_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ours, its = socket.socketpair()
    monkeypatch.setattr(os, "eventfd", refuse)

    with its, pytest.raises(AgentError, match="Too many open files; raise the limit"):
        Agent(ours)
    assert ours.fileno() == -1


def test_nothing_is_left_after_many_connections() -> None:
    before = (len(names(Path("/proc/self/fd"))), threading.active_count())

    for _ in range(20):
        ours, its = socket.socketpair()
        agent = Agent(ours)
        its.close()
        agent.close()

    assert (len(names(Path("/proc/self/fd"))), threading.active_count()) == before
