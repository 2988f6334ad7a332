"""Addresses of the guest's network behind user-mode NAT.  They are QEMU's, which many know."""

import ipaddress
import socket
from pathlib import Path
from typing import Final

from ringlet.devices.backends.network.link import IpConfig

NETWORK: Final = "10.0.2.0"
GUEST: Final = "10.0.2.15"
GATEWAY: Final = "10.0.2.2"
DNS: Final = "10.0.2.3"
PREFIX: Final = 24
NETWORK6: Final = "fd00:10:0:2::"
GATEWAY6: Final = NETWORK6 + "2"
DNS6: Final = NETWORK6 + "3"
PREFIX6: Final = 64
MAC: Final = bytes.fromhex("525400123456")
_RESOLVERS: Final = Path("/etc/resolv.conf")
_SOMEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def guest6(mac: bytes) -> str:
    """Return the address that a guest with `mac` chooses by itself (RFC 4291, appendix A)."""
    identifier = bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])
    return str(ipaddress.IPv6Address(socket.inet_pton(socket.AF_INET6, NETWORK6)[:8] + identifier))


def host_has(family: socket.AddressFamily) -> bool:
    """Tell whether the host has a route to the Internet by `family`.  Nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_SOMEWHERE[family], 53))
    except OSError:
        return False
    return True


def resolver_versions(file: Path = _RESOLVERS) -> set[int]:
    """Return the IP versions of the host's name servers: a subset of {4, 6}."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    versions: set[int] = set()
    for line in lines:
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    versions.add(ipaddress.ip_address(address.partition("%")[0]).version)
                except ValueError:
                    continue
    return versions


def ip_configs(mac: bytes, *, ipv6: bool) -> tuple[IpConfig, IpConfig | None]:
    """Return the guest's settings for IPv4 and, if it has that, for IPv6."""
    versions = resolver_versions()
    first = IpConfig(GUEST, PREFIX, GATEWAY, (DNS,) if 4 in versions or not ipv6 else ())
    if not ipv6:
        return first, None
    return first, IpConfig(guest6(mac), PREFIX6, GATEWAY6, (DNS6,) if 6 in versions else ())
