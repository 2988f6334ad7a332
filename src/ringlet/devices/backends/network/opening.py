"""Connects a guest's network card to what the user asked for."""

import socket
from collections.abc import Sequence
from functools import partial
from typing import Final

from ringlet.devices.backends.network import addresses, ports, screen
from ringlet.devices.backends.network.engine import Engine, EngineError
from ringlet.devices.backends.network.engines import PASST, SLIRP, Kind, Plan
from ringlet.devices.backends.network.link import Framing, IpConfig, Link, Lost
from ringlet.devices.backends.network.tap import TapLink
from ringlet.errors import ConfigError, HostError, remedy
from ringlet.network_config import Forward, NetConfig, NetMode

ENGINES: Final = (PASST, SLIRP)
"""In the order in which they are tried (docs/adr/0016); for UDP, first those that do it best."""
INSTALL: Final = {
    "passt": "apt-get install passt (Fedora: dnf install passt)",
    "libslirp": "apt-get install libslirp0 (Fedora: dnf install libslirp)",
}
"""How to install each engine."""


class UserLink:
    """A connection to an engine of user-mode networking, which `close` ends."""

    framing: Framing = Framing.STREAM
    ipv4: IpConfig | None
    ipv6: IpConfig | None

    def __init__(
        self, engine: Engine, mtu: int, mac: bytes, forwards: tuple[Forward, ...],
        ip: tuple[IpConfig, IpConfig | None],
    ) -> None:  # fmt: skip
        self._engine = engine
        self.fd = engine.socket.fileno()
        self.name = engine.name
        self.pid = engine.pid
        self.mtu = mtu
        self.mac = mac
        self.forwards = forwards
        self.ipv4, self.ipv6 = ip

    def permits(self, frame: bytes) -> bool:
        """Tell whether the guest may send `frame` (see `screen`)."""
        return screen.permits(frame)

    def failed(self, why: str) -> None:
        """End the engine, which then tells the user (`Link.failed`)."""
        self._engine.failed(why)

    def close(self) -> None:
        """End the engine.  A second call does nothing."""
        self._engine.close()
        self.fd = -1


def open_network(config: NetConfig, lost: Lost, engines: Sequence[Kind] = ENGINES) -> Link | None:
    """Return the connection that `config` asks for; None for a guest without a network.

    `lost` is called at most once, from another thread, if the connection ends by itself.
    Raises ConfigError or HostError.
    """
    match config.mode:
        case NetMode.NONE:
            return None
        case NetMode.TAP:
            return TapLink(config.tap, config.mac, lost=lost)
        case NetMode.USER:
            return _open_user(config, lost, engines)


def _open_user(config: NetConfig, lost: Lost, engines: Sequence[Kind]) -> UserLink:
    mac = config.mac or addresses.MAC
    ipv6 = addresses.host_has(socket.AF_INET6)
    forwards = ports.choose(config.forwards)
    for forward in forwards:
        if forward.ipv6 and not ipv6:
            raise ConfigError(
                f"-p {forward.text}: this host has no route for IPv6, so the guest has no IPv6; "
                "give an IPv4 address"
            )
    resolvers = frozenset(addresses.resolver_versions())
    plan = Plan(mac, ipv6, config.host_loopback, forwards, resolvers)
    failures: list[tuple[Kind, EngineError]] = []
    if any(f.protocol == "udp" for f in forwards):
        engines = sorted(engines, key=lambda kind: not kind.local_udp)
    for kind in engines:
        try:
            engine = Engine(kind.name, kind.program(), partial(kind.arguments, plan), mac, lost)
        except EngineError as error:
            failures.append((kind, error))
        except OSError as error:
            what = remedy(error) or "give --net none"
            raise HostError(
                f"--net user: no socket for {kind.name}: {error.strerror}; {what}"
            ) from error
        else:
            ip = addresses.ip_configs(mac, ipv6=ipv6)
            return UserLink(engine, kind.mtu, mac, forwards, ip)
    raise _no_engine(failures)


def _no_engine(failures: Sequence[tuple[Kind, EngineError]]) -> HostError:
    """The error for a host on which no engine starts: what to install, and what went wrong."""
    missing = [kind for kind, error in failures if error.missing]
    wrong = "; ".join(f"{kind.name}: {error}" for kind, error in failures if not error.missing)
    install = " or ".join(INSTALL[kind.name] for kind in missing)
    if not wrong:
        return HostError(f"--net user needs passt or libslirp: {install}")
    if missing:
        return HostError(f"--net user: {wrong}; install the other engine: {install}")
    return HostError(f"--net user: no engine runs on this host: {wrong}; give --net none or a tap")
