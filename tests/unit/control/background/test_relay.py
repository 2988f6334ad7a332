"""Guests and clients of a relay that do not keep to the protocol harm only themselves."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringlet.control.agent import Agent
from ringlet.control.background import relay as relay_module
from ringlet.control.background.relay import MAX_CLIENTS, Relay
from ringlet.control.background.server import _request
from ringlet.errors import AgentError, CommandError
from ringlet.guest.protocol import INPUT_WINDOW, WORD, Kind, frame, hello
from tests.unit.control.agent.native import start
from tests.unit.control.agent.test_hostile import Guest

PATIENCE = 20
EXITED = struct.pack("<i", 0)


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def native(complaints: list[str]) -> Iterator[Relay]:
    """A relay with the agent itself, on the host."""
    process, stream = start()
    relay = Relay(stream, complaints.append)
    yield relay
    relay.close()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


class Played:
    """A relay whose guest the test plays."""

    def __init__(self, complaints: list[str]) -> None:
        ours, its = socket.socketpair()
        self.guest = Guest(its)
        self.relay = Relay(ours, complaints.append)
        self.nonce = b""

    def greet(self) -> None:
        """Answer the relay's greeting."""
        channel, kind, payload = self.guest.receive()
        assert (channel, kind) == (0, Kind.HELLO)
        self.nonce = payload[8:16]
        self.guest.stream.sendall(hello(self.nonce))

    def close(self) -> None:
        self.relay.close()
        self.guest.stream.close()

    def send(self, channel: int, kind: Kind, payload: bytes = b"") -> None:
        self.guest.stream.sendall(frame(channel, kind, payload))


@pytest.fixture
def played(complaints: list[str]) -> Iterator[Played]:
    played = Played(complaints)
    played.greet()
    yield played
    played.close()


@contextlib.contextmanager
def client(relay: Relay, *, greets: bool = True) -> Iterator[Guest]:
    """A client whose frames the test writes."""
    ours, its = socket.socketpair()
    relay.join(its)
    other = Guest(ours)
    if greets:
        ours.sendall(hello(b"12345678"))
        assert other.receive() == (0, Kind.HELLO, hello(b"12345678")[8:])
    yield other
    ours.close()


def closed(other: Guest) -> bool:
    """Whether the connection of a client is closed, now or soon."""
    try:
        while other.stream.recv(1 << 16):
            """What was sent before does not matter."""
    except ConnectionResetError:
        return True
    return True


def drain(played: Played) -> None:
    """Read what has come to a guest that is played; it is of no interest."""
    played.guest.stream.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while played.guest.stream.recv(1 << 16):
            """There is more."""
    played.guest.stream.settimeout(PATIENCE)


def works(relay: Relay) -> bool:
    with relay.agent(PATIENCE) as agent:
        return agent.run("echo on").stdout == "on\n"


# --- clients


@pytest.mark.parametrize(
    "frames",
    [
        frame(1, Kind.OPEN),  # before the greeting
        frame(0, Kind.HELLO, b"short"),
        hello(bytes(8))[:8] + bytes(20),
        b"\xff" * 64,
    ],
)
def test_client_that_does_not_greet_is_dropped(native: Relay, frames: bytes) -> None:
    with client(native, greets=False) as other:
        other.stream.sendall(frames)

        assert closed(other)
    assert works(native)


@pytest.mark.parametrize(
    "frames",
    [
        frame(0, Kind.OPEN),
        frame(1, Kind.EXIT, EXITED),
        frame(1, Kind.SIGNAL, b"123"),
        frame(1, Kind.CREDIT_OUT),
        frame(0, Kind.DATA_IN, b"x"),
        b"\xff" * 64,
    ],
)
def test_frame_that_cannot_be_drops_its_client_alone(native: Relay, frames: bytes) -> None:
    with client(native) as other, native.agent(PATIENCE) as agent:
        process = agent.popen("cat")
        other.stream.sendall(frames)

        assert closed(other)
        assert process.stdin is not None
        process.stdin.write(b"still")
        process.stdin.close()
        assert process.stdout.read() == b"still"


@pytest.mark.parametrize("size", [0, INPUT_WINDOW])
def test_input_without_credit_never_reaches_the_agent(played: Played, size: int) -> None:
    with client(played.relay) as other:
        other.stream.sendall(frame(5, Kind.OPEN, b"request"))
        channel, kind, payload = played.guest.receive()
        assert (kind, payload) == (Kind.OPEN, b"request")
        if size:
            other.stream.sendall(frame(5, Kind.DATA_IN, bytes(size)))
            assert played.guest.receive() == (channel, Kind.DATA_IN, bytes(size))

        other.stream.sendall(frame(5, Kind.DATA_IN, bytes(1 if size else 0)))

        assert played.guest.receive() == (channel, Kind.SIGNAL, WORD.pack(1))
        assert closed(other)


def test_operations_of_a_client_that_goes_are_ended_once(played: Played) -> None:
    with client(played.relay) as other:
        other.stream.sendall(frame(5, Kind.OPEN, b"request") + frame(5, Kind.END_IN))
        channel, _, _ = played.guest.receive()
        assert played.guest.receive() == (channel, Kind.END_IN, b"")

    kinds = [played.guest.receive()[1] for _ in range(4)]

    assert kinds == [Kind.SIGNAL, Kind.SIGNAL, Kind.END_OUT, Kind.END_ERR]
    # What the guest says of them is nobody's.
    played.send(channel, Kind.EXIT, EXITED)
    played.send(channel, Kind.CLOSED)
    with client(played.relay) as other:
        other.stream.sendall(frame(5, Kind.OPEN, b"next"))
        assert played.guest.receive()[1:] == (Kind.OPEN, b"next")


def test_operation_that_is_open_is_not_opened_again(native: Relay) -> None:
    with client(native) as other:
        other.stream.sendall(frame(3, Kind.OPEN, b"") * 2)

        assert closed(other)
    assert works(native)


def test_clients_and_operations_are_bounded(
    native: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(client(native)) for _ in range(MAX_CLIENTS)]
        with client(native, greets=False) as one_more:
            assert closed(one_more)
        assert len(others) == MAX_CLIENTS
    end = time.monotonic() + PATIENCE
    while native._clients:
        assert time.monotonic() < end
        time.sleep(0.01)
    monkeypatch.setattr(relay_module, "MAX_OPERATIONS", 1)
    with native.agent(PATIENCE) as agent:
        waits = agent.popen("cat")
        with pytest.raises(CommandError, match="carries out as many operations as it can"):
            agent.run("true")
        waits.kill()


def test_client_that_reads_nothing_is_dropped_at_its_bound(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "MAX_UNREAD", 1 << 20)
    with client(played.relay) as other:
        other.stream.sendall(frame(5, Kind.OPEN, b"request"))
        channel, _, _ = played.guest.receive()

        for _ in range(20):  # more than it has given credit for
            played.send(channel, Kind.DATA_OUT, bytes(1 << 18))

        assert played.guest.receive()[:2] == (channel, Kind.SIGNAL)


def test_nobody_reads_for_a_guest_that_reads_nothing(played: Played) -> None:
    sent = 0
    with client(played.relay) as other:
        other.stream.settimeout(0.5)
        frames = b"".join(frame(number, Kind.OPEN, bytes(1 << 18)) for number in range(1, 100))
        with contextlib.suppress(TimeoutError):
            while True:
                sent += other.stream.send(frames[sent:])

    assert relay_module.ENOUGH <= sent < 4 * relay_module.ENOUGH


FRAMES = st.lists(
    st.builds(
        frame, st.integers(0, 3), st.sampled_from(list(Kind)), st.binary(max_size=40),
    )
    | st.binary(max_size=40),
    max_size=12,
).map(b"".join)  # fmt: skip


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FRAMES)
def test_nothing_that_a_client_sends_stops_the_relay(played: Played, frames: bytes) -> None:
    gone = (BrokenPipeError, ConnectionResetError)
    with client(played.relay) as other, contextlib.suppress(*gone):
        other.stream.sendall(frames)

    with client(played.relay):
        """It is answered."""

    drain(played)
    assert not played.relay.over


@settings(max_examples=100)
@given(FRAMES)
def test_nothing_that_a_guest_sends_makes_a_client_wait(frames: bytes) -> None:
    complaints: list[str] = []
    played = Played(complaints)
    played.greet()
    with client(played.relay) as other:
        other.stream.sendall(frame(1, Kind.OPEN, b"request"))
        played.guest.receive()

        played.guest.stream.sendall(frames)
        played.guest.stream.shutdown(socket.SHUT_WR)

        assert closed(other)
    played.close()
    assert len(complaints) <= 1
    assert all(told.startswith("the agent in the guest broke") for told in complaints)


# --- guests


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        (frame(9, Kind.DATA_OUT, b"x"), "a frame of kind DATA_OUT for channel 9"),
        (frame(9, Kind.OPEN), "a frame of kind OPEN for channel 9"),
        (b"\xff" * 64, "a frame of 16777215 bytes"),
    ],
)
def test_guest_that_breaks_the_protocol_ends_the_relay(
    played: Played, complaints: list[str], frames: bytes, complaint: str
) -> None:
    with client(played.relay) as other:
        played.guest.stream.sendall(frames)

        assert closed(other)
    played.relay.close()
    (told,) = complaints
    assert complaint in told


def test_guest_that_ends_ends_all_and_is_no_complaint(
    played: Played, complaints: list[str]
) -> None:
    with client(played.relay) as other:
        played.guest.stream.close()

        assert closed(other)
    with pytest.raises(AgentError):
        played.relay.agent(PATIENCE).run("true")
    assert complaints == []


def test_agent_that_starts_again_is_greeted_again(played: Played) -> None:
    first = played.nonce
    with client(played.relay) as other:
        played.guest.stream.sendall(hello(bytes(8)))

        assert closed(other)
    played.greet()

    assert played.nonce != first
    with client(played.relay) as other:
        other.stream.sendall(frame(1, Kind.OPEN, b"request"))
        assert played.guest.receive()[1:] == (Kind.OPEN, b"request")


def test_clients_wait_for_an_agent_that_comes_late(complaints: list[str]) -> None:
    played = Played(complaints)
    ready = []

    def wait() -> None:
        with played.relay.agent(PATIENCE) as agent:
            agent.wait_ready(PATIENCE)
            ready.append(True)

    waiter = threading.Thread(target=wait)
    waiter.start()
    waiter.join(0.1)
    assert not ready
    assert not played.relay.ready.is_set()

    played.greet()
    waiter.join(PATIENCE)
    played.close()

    assert ready


def test_relay_of_a_guest_without_an_answer_can_be_closed(complaints: list[str]) -> None:
    played = Played(complaints)
    agent = played.relay.agent(PATIENCE)

    played.close()

    with pytest.raises(AgentError):
        agent.run("true")
    assert played.relay.over


# --- who may connect


def test_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, its = socket.socketpair()
    with ours, its:
        its.sendall(b'{"version": 1, "do": "kill"}\n')
        assert _request(ours)["do"] == "kill"
        its.sendall(b'{"version": 1, "do": "kill"}\n')
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)

        with pytest.raises(ValueError, match="another user's"):
            _request(ours)


def test_agents_of_one_relay_are_alike(native: Relay) -> None:
    first: Agent = native.agent(PATIENCE)
    with first, native.agent(PATIENCE) as second:
        assert first.info().boot_id == second.info().boot_id
