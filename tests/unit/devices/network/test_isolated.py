"""What depends on the host's settings, on a host that the test makes."""

from pathlib import Path

import pytest
from tests.unit.devices.network import isolated

from ringlet.devices.backends.network.engines import PASST, Kind

BEGIN = """
import fcntl, os, socket, struct, threading
from ringlet.devices.backends.network.engines import PASST, SLIRP
from ringlet.devices.backends.network.opening import open_network
from ringlet.network_config import net_config
from tests.unit.devices.network.frames import Guest

wan = os.open("/dev/net/tun", os.O_RDWR)  # the host's interface has a cable
fcntl.ioctl(wan, 0x400454CA, struct.pack("16sH22x", b"wan", 0x1002))

def guest(kind, *publish, net="user"):
    player = Guest(open_network(net_config(net, publish), print, [kind]))
    player.ask_gateway()
    return player
"""
DNS = """
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))
player = guest({name})
player.send_udp(player.link.ipv4.dns[0], 53, b"question")
data, client = server.recvfrom(100)
server.sendto(b"answer to " + data, client)
print(player.receive_udp().data.decode(), client[0])
player.link.close()
"""


def name(kind: Kind) -> str:
    return "PASST" if kind is PASST else "SLIRP"


@pytest.fixture
def resolver(tmp_path: Path) -> str:
    """Makes systemd-resolved's address that of the name server."""
    file = tmp_path / "resolv.conf"
    file.write_text("# by hand\nnameserver 127.0.0.53\n")
    return f"mount --bind {file} /etc/resolv.conf"


def test_the_hosts_name_server_is_asked_though_it_is_on_its_loopback(
    engine: Kind, resolver: str
) -> None:
    printed = isolated.run(BEGIN + DNS.format(name=name(engine)), resolver)

    assert printed == "answer to question 127.0.0.1\n"


def test_a_host_without_a_network_has_an_engine() -> None:
    program = (
        BEGIN + "link = open_network(net_config('user'), print); print(link.name); link.close()"
    )

    assert isolated.run(program, "ip link set wan down") == "libslirp\n"


def test_udp_from_another_host_reaches_the_guest_by_passt() -> None:
    program = """
player = guest(PASST, "192.0.2.9:5353:53/udp")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("192.0.2.9", 0))
s.settimeout(20)
s.sendto(b"hello", ("192.0.2.9", 5353))
found = player.receive_udp(53)
player.send_udp(found.source, found.port, b"welcome", 53)
print(found.data, s.recv(100))
player.link.close()
"""
    assert isolated.run(BEGIN + program) == "b'hello' b'welcome'\n"


IPV6 = """
player = guest({name}, "[::1]:8080:80")
client = threading.Thread(target=lambda: print(visit()))
def visit():
    with socket.create_connection(("::1", 8080)) as s:
        s.sendall(b"hello")
        return s.recv(100)
client.start()
connection = player.accept(80)
print(connection.receive(5), ":" in connection.peer)
connection.send(b"welcome")
client.join()
player.link.close()
"""
WITH_IPV6 = (
    "ip -6 address add 2001:db8::9/64 dev wan nodad; ip -6 route add default via 2001:db8::1"
)


def test_a_port_of_ipv6_leads_to_the_guests_ipv6_address(engine: Kind) -> None:
    printed = isolated.run(BEGIN + IPV6.format(name=name(engine)), WITH_IPV6)

    assert printed == "b'hello' True\nb'welcome'\n"


def test_root_may_forward_low_ports_and_ping(engine: Kind) -> None:
    program = f"""
player = guest({name(engine)}, "127.0.0.1:80:80")
print(player.link.forwards[0].host_port, player.ping("192.0.2.9"))
player.link.close()
"""
    setup = "sysctl -qw net.ipv4.ping_group_range='0 0'"

    assert isolated.run(BEGIN + program, setup) == "80 b'\\x124\\x00\\x01ringlet!'\n"


TAP = """
import select
link = open_network(net_config("tap:tap0"), print)
print(link.framing.name, link.mtu, len(link.mac), link.permits(b""))
ask = b"\\xff" * 6 + link.mac + struct.pack("!HHHBBH", 0x806, 1, 0x800, 6, 4, 1) + link.mac
ask += socket.inet_aton("198.51.100.2") + bytes(6) + socket.inet_aton("198.51.100.1")
answer = None
for _ in range(100):  # until the kernel has noticed that there is a cable
    os.write(link.fd, bytes(12) + ask)
    while not answer and select.select([link.fd], [], [], 0.1)[0]:
        frame = os.read(link.fd, 70000)[12:]
        if frame[12:14] == b"\\x08\\x06" and frame[20:22] == b"\\0\\2":
            answer = socket.inet_ntoa(frame[28:32])
    if answer:
        break
print(answer)
for name in ("tap0", "lo", "none0"):
    try:
        open_network(net_config("tap:" + name), print)
    except Exception as error:
        print(type(error).__name__, error)
link.close()
link.close()
"""
WITH_TAP = """
ip tuntap add dev tap0 mode tap
ip address add 198.51.100.1/24 dev tap0
ip link set tap0 mtu 9000 up
"""


def test_a_tap_carries_frames_with_a_header_and_mistakes_are_told() -> None:
    first, second, busy, no_tap, unknown = isolated.run(BEGIN + TAP, WITH_TAP).splitlines()

    assert (first, second) == ("TAP 9000 6 True", "198.51.100.1")
    assert busy == "ConfigError --net tap:tap0: another program uses it; give another tap"
    assert no_tap.startswith("ConfigError --net tap:lo: it is not a tap with one queue; root makes")
    assert unknown == (
        "ConfigError --net tap:none0: this host has no interface none0; root makes one with "
        "`ip tuntap add dev none0 mode tap user USER; ip link set none0 up`"
    )
