"""Engines of user-mode networking, each with a guest that speaks raw Ethernet."""

import contextlib
import http.server
import os
import random
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.unit.devices.network.frames import (
    ARP,
    EVERYONE,
    ICMP,
    IPV4,
    SYN,
    TCP,
    UDP,
    Guest,
    child,
    packed,
    packet,
)  # fmt: skip

from ringlet.devices.backends.network import engine as engine_module
from ringlet.devices.backends.network import screen
from ringlet.devices.backends.network.engine import SEND_BUFFER
from ringlet.devices.backends.network.engines import SLIRP, Kind
from ringlet.devices.backends.network.opening import UserLink
from ringlet.errors import ConfigError

Open = Callable[..., Guest]
FILES = 1024  # in slirp.c
BODY = bytes(range(256)) * 1200


def engine_pid(guest: Guest) -> int:
    assert isinstance(guest.link, UserLink)
    assert guest.link.pid is not None
    return child(guest.link.pid)


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a web server on the host's loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.05))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_gateway_answers_and_the_link_says_what_it_is(engine: Kind, guest: Open) -> None:
    player = guest(engine)

    assert len(player.gateway) == 6
    assert player.link.ipv4 is not None
    assert (player.link.ipv4.address, player.link.ipv4.gateway) == ("10.0.2.15", "10.0.2.2")
    assert not os.get_blocking(player.link.fd)
    assert player.link.mtu == engine.mtu


def test_dhcp_offers_the_same_settings(engine: Kind, guest: Open) -> None:
    player = guest(engine)
    head = struct.pack("!BBBBIHH16s", 1, 1, 6, 0, 0x1234, 0, 0, bytes(16)) + player.link.mac
    options = b"\x63\x82\x53\x63\x35\x01\x01\x37\x04\x01\x03\x06\x33\xff"  # RFC 2131, 2132
    request = (head + bytes(10 + 192) + options).ljust(300, b"\0")
    datagram = struct.pack("!HHHH", 68, 67, 8 + len(request), 0) + request
    player.gateway = EVERYONE
    player.send_packet(packet("0.0.0.0", "255.255.255.255", UDP, datagram, 6))

    offer = player.receive_udp(68).data

    assert offer[16:20] == packed("10.0.2.15")
    assert b"\x35\x01\x02" in offer[240:]
    assert b"\x01\x04\xff\xff\xff\x00" in offer[240:]
    assert b"\x03\x04" + packed("10.0.2.2") in offer[240:]


def test_libslirps_gateway_answers_a_ping(guest: Open) -> None:
    assert guest(SLIRP).ping("10.0.2.2") == b"\x12\x34\0\1ringlet!"


def test_the_hosts_loopback_is_the_gateway_if_the_user_says_so(
    engine: Kind, guest: Open, web: int
) -> None:
    player = guest(engine, net="user,host-loopback")
    connection = player.connect("10.0.2.2", web)
    connection.send(b"GET / HTTP/1.0\r\n\r\n")

    head, _, body = connection.receive().partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.0 200")
    assert body == BODY


@pytest.mark.parametrize("target", ["10.0.2.2", "10.0.2.3", "127.0.0.1", "127.9.9.9", "0.0.0.0"])
def test_without_that_the_guest_does_not_reach_it(engine: Kind, guest: Open, target: str) -> None:
    player = guest(engine)
    head = struct.pack("!HHIIBBHHH", 40001, 0, 1, 0, 5 << 4, SYN, 60000, 0, 0)
    with socket.create_server(("0.0.0.0", 0)) as server:
        head = head[:2] + struct.pack("!H", server.getsockname()[1]) + head[4:]
        data = packet("10.0.2.15", target, TCP, head, 16)
        frame = player.gateway + player.link.mac + IPV4 + data
        if player.link.permits(frame):
            player.send(frame)
        player.ask_gateway()

        assert not select.select([server], [], [], 0.3)[0]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_of_the_host_leads_to_the_guest(engine: Kind, guest: Open, address: str) -> None:
    player = guest(engine, f"{address}::80")
    (forward,) = player.link.forwards
    got: list[bytes] = []

    def visit() -> None:
        with socket.create_connection(("127.0.0.1", forward.host_port)) as s:
            s.sendall(b"hello")
            while data := s.recv(1 << 16):
                got.append(data)

    visitor = threading.Thread(target=visit)
    visitor.start()
    connection = player.accept(80)
    asked = connection.receive(5)
    connection.send(b"welcome")
    connection.close()
    visitor.join(20)

    assert (asked, b"".join(got)) == (b"hello", b"welcome")


def test_a_udp_port_of_the_host_leads_to_the_guest(guest: Open) -> None:
    player = guest(SLIRP, "127.0.0.1::53/udp")
    (forward,) = player.link.forwards
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.sendto(b"hello", ("127.0.0.1", forward.host_port))
        found = player.receive_udp(53)
        datagram = struct.pack("!HHHH", 53, found.port, 8 + 7, 0) + b"welcome"
        player.send_packet(packet("10.0.2.15", found.source, UDP, datagram, 6))

        assert (found.data, s.recv(100)) == (b"hello", b"welcome")


def test_a_port_in_use_is_named(engine: Kind, guest: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"TCP port {port} of the host is in use; give an"):
            guest(engine, f"127.0.0.1:{port}:80")


def test_the_end_of_an_engine_is_told_once(engine: Kind, guest: Open, lost: list[str]) -> None:
    player = guest(engine)
    os.kill(engine_pid(player), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not lost and time.monotonic() < deadline:
        time.sleep(0.01)
    player.link.close()
    player.link.close()

    assert "".join(lost) == (
        f"the network's engine {engine.name} ended (killed by signal 9): the guest has no network "
        "from now on"
    )


@pytest.mark.parametrize(
    ("killed", "how"), [(False, "a frame of 0 bytes"), (True, "killed by signal 9")]
)
def test_an_engine_whose_socket_fails_is_ended_unless_it_ends(
    engine: Kind, guest: Open, lost: list[str], monkeypatch: pytest.MonkeyPatch,
    killed: bool, how: str,
) -> None:  # fmt: skip
    player = guest(engine)
    pid = engine_pid(player)
    monkeypatch.setattr(engine_module, "_LEAVE_SECONDS", 2.0 if killed else 0.05)
    player.link.failed("a frame of 0 bytes")
    if killed:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not lost and time.monotonic() < deadline:
        time.sleep(0.01)

    assert not Path(f"/proc/{pid}").exists()
    assert lost == [
        f"the network's engine {engine.name} ended ({how}): the guest has no network from now on"
    ]


def test_closing_ends_the_engine_and_is_no_loss(engine: Kind, guest: Open, lost: list[str]) -> None:
    player = guest(engine)
    pid = engine_pid(player)
    player.link.close()

    assert not Path(f"/proc/{pid}").exists()
    assert lost == []


def test_an_engine_that_hangs_is_killed(engine: Kind, guest: Open) -> None:
    player = guest(engine)
    pid = engine_pid(player)
    os.kill(pid, signal.SIGSTOP)
    player.link.close()

    assert not Path(f"/proc/{pid}").exists()


def test_an_engine_that_does_not_read_fills_the_socket_and_no_more(
    engine: Kind, guest: Open
) -> None:
    player = guest(engine)
    pid = engine_pid(player)
    os.kill(pid, signal.SIGSTOP)
    frame = struct.pack("!I", 60) + EVERYONE + player.link.mac + ARP + bytes(46)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 8 * SEND_BUFFER:
            sent += os.write(player.link.fd, frame * 1000)
    os.kill(pid, signal.SIGCONT)

    assert 0 < sent <= 2 * SEND_BUFFER
    rest = -sent % len(frame)
    if rest:
        left = frame[-rest:]
        while left:
            select.select([], [player.link.fd], [], 10)
            left = left[os.write(player.link.fd, left) :]
    assert player.ask_gateway()


def test_a_guest_that_does_not_read_costs_no_memory(engine: Kind, guest: Open) -> None:
    player = guest(engine, "127.0.0.1::53/udp")
    (forward,) = player.link.forwards
    pid = engine_pid(player)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", forward.host_port))
        s.send(b"first")
        player.receive_udp(53)
        before = resident(pid)
        for _ in range(20_000):
            s.send(bytes(1400))
        time.sleep(0.2)

    assert resident(pid) - before < 16 << 20
    with contextlib.suppress(TimeoutError):  # an engine drops an answer that has no room
        while True:
            player.frame(time.monotonic() + 0.5)
    assert player.ask_gateway()


def test_an_engine_survives_what_is_not_a_packet(
    engine: Kind, guest: Open, lost: list[str]
) -> None:
    player = guest(engine)
    chance = random.Random(1)
    for _ in range(3000):
        size = chance.choice([0, 1, 13, 14, 20, 34, 54, 60, 200, 1500])
        kind = chance.choice([IPV4, ARP, b"\x86\xdd", b"\x88\xf8"])
        data = bytearray(player.gateway + player.link.mac + kind + chance.randbytes(size))
        if kind == IPV4 and size >= 20:
            data[14:34] = packet(
                "10.0.2.15", "10.0.2.2", chance.choice([ICMP, TCP, UDP, chance.randrange(256)]), b""
            )
            data[16:18] = struct.pack("!H", chance.choice([size, 20, 0, 65535]))
            data[20:22] = struct.pack("!H", chance.choice([0, 0x2000, 0x3FFF, 0x1FFF]))
        if screen.permits(bytes(data)):
            player.send(bytes(data))

    assert player.ask_gateway()
    assert lost == []


def test_a_guest_that_opens_connections_without_end_has_its_network_left(
    guest: Open, web: int, lost: list[str]
) -> None:
    player = guest(SLIRP, net="user,host-loopback")
    for port in range(20_000, 21_500):
        head = struct.pack("!HHIIBBHHH", port, web, 1, 0, 5 << 4, SYN, 60000, 0, 0)
        player.send_packet(packet("10.0.2.15", "10.0.2.2", TCP, head, 16))

    files = Path(f"/proc/{engine_pid(player)}/limits").read_text().partition("Max open files")[2]

    assert player.ask_gateway()
    assert int(files.split()[0]) <= FILES
    assert lost == []
