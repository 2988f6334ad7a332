"""The engines of user-mode networking and their command lines: passt and libslirp."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.devices.backends.network import addresses
from ringlet.network_config import Forward

SLIRP_PROGRAM: Final = Path(__file__).parent / "slirp"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an engine is to do.  `resolvers`: the IP versions of the host's name servers."""

    mac: bytes
    ipv6: bool
    host_loopback: bool
    forwards: tuple[Forward, ...]
    resolvers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine: its name, where its program is, and its arguments for a plan and a socket.

    `mtu`: bytes of the packets with which it is fastest.  The guest's TCP ends at the engine, so
    that packets on real networks are not longer for it.  `local_udp`: the guest's answers to
    datagrams that come to a forwarded port from the host's loopback find their way back.
    """

    name: str
    mtu: int
    local_udp: bool
    program: Callable[[], Path | None]
    arguments: Callable[[Plan, int], Sequence[str]]


def _find_passt() -> Path | None:
    found = shutil.which("passt")
    return Path(found) if found else None


def _passt(plan: Plan, fd: int) -> list[str]:
    """The arguments of passt(1), 2023-03-09 or later.  It ends when its socket is closed."""
    words = ["--foreground", "--quiet", "--fd", str(fd), "--mtu", str(PASST.mtu)]
    words += ["-a", addresses.GUEST, "-n", str(addresses.PREFIX), "-g", addresses.GATEWAY]
    if 4 in plan.resolvers:
        words += ["--dns-forward", addresses.DNS]
    if plan.ipv6:
        words += ["-a", addresses.guest6(plan.mac), "-g", addresses.GATEWAY6]
        if 6 in plan.resolvers:
            words += ["--dns-forward", addresses.DNS6]
    else:
        words += ["--ipv4-only"]
    if not plan.host_loopback:
        words += ["--no-map-gw"]
    for f in plan.forwards:
        words += ["-u" if f.protocol == "udp" else "-t"]
        words += [f"{f.host_address}/{f.host_port}:{f.guest_port}"]
    return words


def _slirp(plan: Plan, fd: int) -> list[str]:
    """The arguments of slirp.c."""
    a, six = addresses, addresses.guest6(plan.mac)
    words = [f"fd={fd}", f"mtu={SLIRP.mtu}", f"mac={plan.mac.hex(':')}"]
    words += [f"ipv4={a.NETWORK}/{a.PREFIX},{a.GATEWAY},{a.DNS},{a.GUEST}"]
    words += [f"ipv6={a.NETWORK6}/{a.PREFIX6},{a.GATEWAY6},{a.DNS6},{six}"] * plan.ipv6
    words += ["host"] * plan.host_loopback
    words += [f"{f.protocol}={f.host_address},{f.host_port},{f.guest_port}" for f in plan.forwards]
    return words


PASST: Final = Kind("passt", 65520, local_udp=False, program=_find_passt, arguments=_passt)
SLIRP: Final = Kind(
    "libslirp", 32000, local_udp=True, program=lambda: SLIRP_PROGRAM, arguments=_slirp
)
