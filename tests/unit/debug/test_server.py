"""The server: who may connect, how it treats peers that misbehave, how a run continues."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from pathlib import Path
from typing import Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringlet.core.state import Exit
from ringlet.debug.protocol import PACKET_SIZE, Parser, frame
from ringlet.debug.server import GdbServer, listen, place_of
from ringlet.errors import ConfigError
from ringlet.machine import outcome
from ringlet.machine.outcome import End
from tests.unit.vcpu.board import CODE, Board

TIMEOUT_S = 20


class LoopingMachine:
    """A processor in an endless loop, in a thread of its own."""

    def __init__(self) -> None:
        self.board = Board()
        self.board.place("48FFC0" + "EBFB")  # inc rax; jmp CODE
        self.posted: deque[Callable[[], None]] = deque()
        self.end: End | None = None
        self.error: BaseException | None = None
        self.server = GdbServer(self, self.board.p, listen("0"))
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def ended(self) -> bool:
        return self.end is not None

    def post(self, call: Callable[[], None]) -> None:
        self.posted.append(call)
        self.board.p.kick()

    def fail(self, error: Exception) -> None:
        self.error = error

    def finish(self, end: End) -> None:
        self.end = self.end or end
        self.board.p.kick()

    def counters(self) -> dict[str, int]:
        return {"exits": 3, "links": 0}

    def _run(self) -> None:
        try:
            while self.end is None:
                kind = self.board.p.run()
                if kind == Exit.EXIT_DEBUG:
                    self.server.trapped()
                while self.posted:
                    self.posted.popleft()()
        except BaseException as error:
            self.error = error
            raise

    def start(self, *, wait: bool = False) -> None:
        self.server.start(wait=wait)
        self.thread.start()

    def stop(self) -> None:
        self.finish(outcome.stopped(15))
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()
        self.server.close(0)
        assert self.error is None

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(place_of(self.server._listener).rpartition(":")[2])

    def runs(self) -> bool:
        """Return whether the loop makes progress, seen from outside."""
        before = self.board.get("rip"), self.board.p.counters()["python_exits"]
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            self.board.p.kick()
            time.sleep(0.01)
            if self.board.p.counters()["python_exits"] > before[1]:
                return True
        return False


class Peer:
    """A peer of the server."""

    def __init__(self, machine: LoopingMachine) -> None:
        self.sock = socket.create_connection(machine.address(), TIMEOUT_S)
        self.parser = Parser()
        self.packets: deque[bytes] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> bytes:
        """Return the next packet, empty at the end."""
        while not self.packets:
            data = self.sock.recv(4096)
            if not data:
                return b""
            self.packets.extend(e for e in self.parser.feed(data) if isinstance(e, bytes))
        return self.packets.popleft()

    def ask(self, packet: bytes) -> bytes:
        self.send(frame(packet))
        return self.receive()


@pytest.fixture
def machine() -> Iterator[LoopingMachine]:
    machine = LoopingMachine()
    machine.start()
    yield machine
    machine.stop()


@pytest.fixture
def peer(machine: LoopingMachine) -> Iterator[Peer]:
    with Peer(machine) as peer:
        yield peer


def test_who_comes_stops_the_guest(peer: Peer) -> None:
    assert peer.ask(b"?") == b"T02thread:1;"


def test_guest_waits_for_gdb() -> None:
    machine = LoopingMachine()
    machine.start(wait=True)
    time.sleep(0.2)
    assert machine.board.get("rax") == 0

    with Peer(machine) as peer:
        assert peer.ask(b"p0") == b"0" * 16
    machine.stop()


@pytest.mark.parametrize("asks", [False, True])
def test_guest_that_waits_is_not_released_by_a_peer_that_leaves(*, asks: bool) -> None:
    machine = LoopingMachine()
    machine.start(wait=True)
    for _ in range(3):
        with Peer(machine) as peer:
            if asks:
                assert peer.ask(b"?") == b"T02thread:1;"
    time.sleep(0.2)
    assert machine.board.get("rax") == 0

    with Peer(machine) as peer:
        assert peer.ask(b"p0") == b"0" * 16
        peer.send(frame(b"c"))
        time.sleep(0.1)
    machine.stop()

    assert machine.board.get("rax") > 0
    assert machine.error is None


def test_guest_that_waits_can_be_stopped() -> None:
    machine = LoopingMachine()
    machine.start(wait=True)

    machine.stop()


def test_breakpoint_step_and_watch(peer: Peer) -> None:
    peer.ask(b"Z0,%x,1" % CODE)

    assert peer.ask(b"c") == b"T05thread:1;swbreak:;"
    assert peer.ask(b"p10") == CODE.to_bytes(8, "little").hex().encode()
    assert peer.ask(b"s") == b"T05thread:1;"
    assert peer.ask(b"p10") == (CODE + 3).to_bytes(8, "little").hex().encode()
    assert peer.ask(b"c") == b"T05thread:1;swbreak:;"


def test_interrupt(peer: Peer) -> None:
    peer.ask(b"?")
    peer.send(frame(b"c"))
    time.sleep(0.05)
    peer.send(b"\x03")

    assert peer.receive() == b"T02thread:1;"


def test_interrupts_of_a_guest_that_stands_still_are_nothing(peer: Peer) -> None:
    peer.ask(b"?")
    peer.send(b"\x03" * 1000)

    assert peer.ask(b"qC") == b"QC1"
    assert peer.ask(b"s") == b"T05thread:1;"


def test_who_leaves_leaves_nothing(machine: LoopingMachine, peer: Peer) -> None:
    peer.ask(b"Z0,%x,1" % CODE)
    peer.sock.close()
    assert machine.runs()

    with Peer(machine) as again:
        assert again.ask(b"?") == b"T02thread:1;"
        assert machine.server._points.breaks == {}


def test_detach(machine: LoopingMachine, peer: Peer) -> None:
    peer.ask(b"Z0,%x,1" % CODE)

    assert peer.ask(b"D") == b"OK"

    assert machine.runs()


def test_kill(machine: LoopingMachine, peer: Peer) -> None:
    peer.ask(b"?")
    peer.send(frame(b"k"))
    machine.thread.join(TIMEOUT_S)

    assert machine.end == outcome.stopped(9)


def test_end_of_the_run_is_reported(peer: Peer, machine: LoopingMachine) -> None:
    peer.ask(b"?")
    peer.send(frame(b"c"))
    time.sleep(0.05)
    machine.finish(outcome.debug_exit(33))
    machine.thread.join(TIMEOUT_S)
    machine.server.close(33)

    assert peer.receive() == b"W21"


def test_guest_that_dies_with_no_gdb_goes_on_to_its_end() -> None:
    machine = LoopingMachine()
    machine.posted.append(lambda: machine.server.dying(outcome.triple_fault("RIP 0x5")))

    machine.start()

    assert machine.runs()
    machine.stop()


def test_acknowledgements(peer: Peer) -> None:
    peer.send(frame(b"qC"))
    assert peer.sock.recv(1) == b"+"
    assert peer.receive() == b"QC1"
    peer.send(b"-")
    assert peer.receive() == b"QC1"
    peer.send(b"$qC#00")
    assert peer.sock.recv(1) == b"-"
    assert peer.ask(b"QStartNoAckMode") == b"OK"
    peer.send(frame(b"qC"))
    assert peer.sock.recv(1) == b"$"


@pytest.mark.parametrize(
    "junk",
    [b"$" + b"a" * (PACKET_SIZE + 1), b"$}#7d", frame(b"c") + frame(b"qC") * 1000, b"GET /"],
    ids=["long", "escape", "flood", "browser"],
)
def test_peer_that_misbehaves_is_hung_up_on(
    machine: LoopingMachine, peer: Peer, junk: bytes
) -> None:
    peer.ask(b"?")
    with suppress(ConnectionError):
        peer.send(junk)
        while peer.receive():
            pass

    assert machine.runs()
    peer.sock.close()
    with Peer(machine) as again:
        assert again.ask(b"?") == b"T02thread:1;"


def test_peer_that_does_not_read(machine: LoopingMachine, peer: Peer) -> None:
    peer.sock.settimeout(1)
    with suppress(OSError):
        for _ in range(10_000):
            peer.send(frame(b"g") * 16)

    assert machine.runs()


SHARED: list[LoopingMachine] = []


@pytest.fixture(scope="module")
def shared() -> Iterator[LoopingMachine]:
    machine = LoopingMachine()
    machine.start()
    yield machine
    machine.stop()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.binary(max_size=40).map(frame),
            st.sampled_from([frame(b"s"), frame(b"c"), b"\x03", frame(b"g"), frame(b"D")]),
        ),
        max_size=20,
    )
)
def test_any_peer_leaves_a_machine_that_runs(shared: LoopingMachine, pieces: list[bytes]) -> None:
    data = b"".join(pieces).replace(b"$k", b"$j").replace(b"vKill", b"vkill")
    peer = Peer(shared)
    with suppress(ConnectionError):
        peer.send(data)
    peer.sock.close()

    assert shared.error is None
    assert shared.runs()


# --- where it listens


def test_ports_are_of_the_loopback_interface() -> None:
    with listen("0") as server:
        assert server.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["localhost:", "127.0.0.1:", ":", "tcp::", ""])
def test_port_with_the_name_of_its_interface(host: str) -> None:
    with listen(f"{host}0") as server:
        assert server.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "where", ["0.0.0.0:1234", "[::1]:1234", "localhost:", "./a:b", "gdb", "unix:"]
)
def test_place_that_gdb_would_not_find(where: str, tmp_path: Path) -> None:
    with chdir(tmp_path), pytest.raises(ConfigError, match="such as :1234, or unix:PATH"):
        listen(where)
    assert not list(tmp_path.iterdir())


def test_path(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with listen(str(path)) as server:
        assert place_of(server) == str(path)
        assert path.stat().st_mode & 0o777 == 0o600


def test_path_as_docker_and_gdb_write_it(tmp_path: Path) -> None:
    with chdir(tmp_path), listen("unix:gdb") as server:
        assert place_of(server) == "gdb"
        assert (tmp_path / "gdb").is_socket()


def test_path_of_a_socket_that_was_left(tmp_path: Path) -> None:
    path = str(tmp_path / "gdb")
    listen(path).close()

    listen(path).close()


@pytest.mark.parametrize("where", ["", "-", "65536", "99999999999", "/nowhere/at/all", "a" * 200])
def test_place_that_cannot_be_listened_at(where: str) -> None:
    with pytest.raises(ConfigError, match="--gdb"):
        listen(where)


def test_file_that_is_not_a_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")

    with pytest.raises(ConfigError, match="it exists and is not a socket"):
        listen(str(path))

    assert path.read_text() == "mine"


def test_place_that_is_taken(tmp_path: Path) -> None:
    with listen("0") as server:
        taken = place_of(server).rpartition(":")[2]
        with pytest.raises(ConfigError, match="another process listens there"):
            listen(taken)
