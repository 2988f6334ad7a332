"""The options of a guest's network, and their checks.

`--net none|user|tap:NAME` chooses what the network card is connected to; `-p` forwards ports of
the host to the guest, written as in Docker.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final

from ringlet.errors import ConfigError

MAX_FORWARDS: Final = 256
"""Each is a file descriptor of the engine, which has 1,024."""

_FORWARD: Final = re.compile(
    r"(?:(?:(?P<ip>\[[^\]]*\]|[^:\[\]]*):)?(?P<host>[\d-]*):)?(?P<guest>[\d-]+)(?:/(?P<protocol>\w+))?"
)
_FORM: Final = "give [HOSTIP:]HOSTPORT:GUESTPORT[/tcp|/udp], such as 8080:80 or 127.0.0.1:2222:22"
_TAP_NAME: Final = re.compile(r"[^\s/:]{1,15}")


class NetMode(Enum):
    """What the network card is connected to."""

    NONE = "none"  # nothing; the guest has no card
    USER = "user"
    TAP = "tap"


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of the host that leads to a port of the guest.

    `host_port` 0: the host chooses one.  `text` is what the user wrote, for messages.
    """

    host_address: str
    host_port: int
    guest_port: int
    protocol: str = "tcp"
    text: str = ""

    @property
    def ipv6(self) -> bool:
        """Whether the host's address is one of IPv6; the guest's is then, too."""
        return ":" in self.host_address

    def __str__(self) -> str:
        host = f"[{self.host_address}]" if self.ipv6 else self.host_address
        return f"{host}:{self.host_port} -> {self.guest_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class NetConfig:
    """The configuration of a guest's network.

    `tap` is the interface's name, `host_loopback` whether the guest may reach services on the
    host's loopback, `mac` the card's address (6 bytes; empty: one is chosen).
    """

    mode: NetMode = NetMode.NONE
    tap: str = ""
    forwards: tuple[Forward, ...] = ()
    host_loopback: bool = False
    mac: bytes = b""


def net_config(
    net: str | None,
    publish: Sequence[str] = (),
    *,
    default: str = "none",
    mac: bytes = b"",
    called: str = "--net",
    published: str = "-p",
) -> NetConfig:
    """Return the network that --net and the values of -p describe.

    Without --net it is `default`, but `user` if ports are forwarded.  Raises ConfigError, which
    calls the two options `called` and `published`.
    """
    given = net if net is not None else "user" if publish else default
    kind, _, rest = given.partition(":")
    kind, *extras = kind.split(",")
    if kind == "tap":
        if publish:
            raise ConfigError(
                f"{published} {publish[0]}: only {called} user forwards ports; behind a tap the "
                "guest has an address of its own"
            )
        if extras or not _TAP_NAME.fullmatch(rest) or rest in (".", ".."):
            raise ConfigError(f"{called} {given}: give the interface's name, as in tap:tap0")
        return NetConfig(NetMode.TAP, tap=rest, mac=mac)
    if kind == "none" and not extras and not rest:
        if publish:
            raise ConfigError(
                f"{published} {publish[0]}: a guest with {called} none has no ports; drop one"
            )
        return NetConfig()
    if kind != "user" or rest or extras not in ([], ["host-loopback"]):
        raise ConfigError(f"{called} {given}: give none, user, user,host-loopback or tap:NAME")
    forwards = tuple(f for text in publish for f in parse_forward(text, published))
    _check_together(forwards, published)
    return NetConfig(NetMode.USER, forwards=forwards, host_loopback=bool(extras), mac=mac)


def parse_forward(text: str, called: str = "-p") -> tuple[Forward, ...]:
    """Return the forwards that a value of -p describes: one, or one a port of its range.

    Without HOSTIP they are on all IPv4 addresses of the host, as in Docker.  Raises ConfigError,
    which calls the option `called`.
    """
    option = f"{called} {text}"
    match = _FORWARD.fullmatch(text)
    if match is None:
        raise ConfigError(f"{option}: not a forwarded port; {_FORM}")
    protocol = match["protocol"] or "tcp"
    if protocol not in ("tcp", "udp"):
        raise ConfigError(f"{option}: {protocol} cannot be forwarded; give tcp or udp")
    address = _address(match["ip"] or "", option)
    guest = _ports(match["guest"], option)
    host = _ports(match["host"], option) if match["host"] else [0] * len(guest)
    if len(host) != len(guest):
        raise ConfigError(
            f"{option}: {len(host)} ports of the host for {len(guest)} of the guest; give as many"
        )
    return tuple(Forward(address, h, g, protocol, text) for h, g in zip(host, guest, strict=True))


def _address(given: str, option: str) -> str:
    if not given:
        return "0.0.0.0"  # noqa: S104  # as in Docker
    bare = given.removeprefix("[").removesuffix("]")
    try:
        address = ip_address(bare)
    except ValueError:
        raise ConfigError(f"{option}: {bare or given} is not an IP address; {_FORM}") from None
    if (address.version == 6) is not given.startswith("["):
        raise ConfigError(f"{option}: write IPv6 addresses, and no others, in brackets: [::1]")
    return str(address)


def _ports(given: str, option: str) -> list[int]:
    first, dash, last = given.partition("-")
    numbers = [first, last if dash else first]
    if not all(n.isascii() and n.isdigit() and len(n) <= 5 for n in numbers):
        raise ConfigError(f"{option}: {given} is not a port or a range of ports; {_FORM}")
    low, high = int(numbers[0]), int(numbers[1])
    if not 1 <= low <= high <= 65535:
        raise ConfigError(f"{option}: ports are 1 to 65535, and a range begins with the lower one")
    if high - low >= MAX_FORWARDS:
        raise ConfigError(f"{option}: at most {MAX_FORWARDS} ports can be forwarded")
    return list(range(low, high + 1))


def _check_together(forwards: tuple[Forward, ...], called: str) -> None:
    if len(forwards) > MAX_FORWARDS:
        raise ConfigError(
            f"{called}: at most {MAX_FORWARDS} ports can be forwarded, not {len(forwards)}"
        )
    seen: set[tuple[str, int, str]] = set()
    for forward in forwards:
        key = (forward.host_address, forward.host_port, forward.protocol)
        if forward.host_port and key in seen:
            raise ConfigError(
                f"{called} {forward.text}: port {forward.host_port}/{forward.protocol} of the host "
                "is forwarded twice; give each once"
            )
        seen.add(key)
