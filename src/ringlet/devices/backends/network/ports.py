"""Ports of the host that are to lead to the guest: whether they are free, and which are chosen."""

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError
from ringlet.network_config import Forward

_FIRST_OPEN: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def choose(forwards: Sequence[Forward]) -> tuple[Forward, ...]:
    """Return `forwards`, each with the number of a port of the host that is free now.

    The engine opens the ports itself, a moment later.  Raises ConfigError.
    """
    chosen = []
    with ExitStack() as held:
        # Those with a number come first, so that none of them is chosen for another.
        for forward in sorted(forwards, key=lambda f: f.host_port == 0):
            family = socket.AF_INET6 if forward.ipv6 else socket.AF_INET
            kind = socket.SOCK_DGRAM if forward.protocol == "udp" else socket.SOCK_STREAM
            try:
                probe = held.enter_context(socket.socket(family, kind))
                if forward.ipv6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:  # old connections do not hold the port
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((forward.host_address, forward.host_port))
            except OSError as error:
                raise _mistake(forward, error) from error
            chosen.append(replace(forward, host_port=probe.getsockname()[1]))
    return tuple(chosen)


def _mistake(forward: Forward, error: OSError) -> ConfigError:
    port, address = forward.host_port, forward.host_address
    match error.errno:
        case errno.EADDRINUSE:
            what = f"{forward.protocol.upper()} port {port} of the host is in use; give another, "
            what += f"or none (-p :{forward.guest_port}) to have one chosen"
        case errno.EACCES | errno.EPERM:
            what = f"port {port} of the host is for root alone; give one from {_first_open()} on"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT | errno.EINVAL:
            what = f"this host has no address {address}; `ip address` lists those that it has"
        case _:
            what = f"port {port} of the host cannot be opened: {error.strerror}"
    return ConfigError(f"-p {forward.text}: {what}")


def _first_open() -> int:
    try:
        return int(_FIRST_OPEN.read_text())
    except (OSError, ValueError):
        return 1024
