"""A tap: a network interface of the host whose other end is the guest's card.

Its packets are the kernel's own, so checksums and segments may be left to it (virtio 1.2 5.1.6).
"""

import errno
import fcntl
import os
import secrets
import socket
import struct
from pathlib import Path
from typing import Final

from ringlet.devices.backends.network.link import Framing, IpConfig, Lost
from ringlet.errors import ConfigError, HostError
from ringlet.network_config import Forward

DEVICE: Final = Path("/dev/net/tun")
# linux/if_tun.h, linux/sockios.h
_SET_INTERFACE, _SET_HEADER_SIZE, _GET_MTU = 0x400454CA, 0x400454D8, 0x8921
_TAP, _NO_INFO, _VNET_HEADER = 2, 0x1000, 0x4000
_HEADER: Final = 12


def _to_nobody(line: str) -> None:
    """Tell nobody."""


class TapLink:
    """The tap `name`.  Raises ConfigError or HostError."""

    framing: Framing = Framing.TAP
    ipv4: IpConfig | None = None
    ipv6: IpConfig | None = None
    forwards: tuple[Forward, ...] = ()

    def __init__(
        self, name: str, mac: bytes = b"", device: Path = DEVICE, lost: Lost = _to_nobody
    ) -> None:
        self.name = f"tap {name}"
        self._lost = lost
        self.mac = mac or b"\x52\x54\x00" + secrets.token_bytes(3)  # of no manufacturer's
        self.mtu = _mtu(name)
        try:
            self.fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(
                f"--net tap:{name}: cannot open {device} ({error.strerror}); `modprobe tun`, or "
                "start the container with --device /dev/net/tun"
            ) from error
        try:
            flags = _TAP | _NO_INFO | _VNET_HEADER
            fcntl.ioctl(self.fd, _SET_INTERFACE, struct.pack("16sH22x", name.encode(), flags))
            fcntl.ioctl(self.fd, _SET_HEADER_SIZE, struct.pack("i", _HEADER))
        except OSError as error:
            self.close()
            raise _mistake(name, error) from error

    def permits(self, frame: bytes) -> bool:
        """Tell whether the guest may send `frame`: always; the host's own rules hold."""
        return True

    def failed(self, why: str) -> None:
        """Tell the user that the card cannot use the interface any more (`Link.failed`)."""
        self._lost(
            f"the network's interface ({self.name}) was removed or fails ({why}): "
            "the guest has no network from now on"
        )

    def close(self) -> None:
        """Let go of the tap.  A second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _mtu(name: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            answer = fcntl.ioctl(asker, _GET_MTU, struct.pack("16s24x", name.encode()))
        except OSError as error:
            raise ConfigError(
                f"--net tap:{name}: this host has no interface {name}; {_make(name)}"
            ) from error
    (mtu,) = struct.unpack_from("i", answer, 16)
    return int(mtu)


def _mistake(name: str, error: OSError) -> ConfigError:
    match error.errno:
        case errno.EBUSY:
            what = "another program uses it; give another tap"
        case errno.EPERM:
            what = f"it is not this user's; {_make(name)}"
        case errno.EINVAL:
            what = f"it is not a tap with one queue; {_make(name)}"
        case _:
            what = error.strerror or str(error)
    return ConfigError(f"--net tap:{name}: {what}")


def _make(name: str) -> str:
    make = f"ip tuntap add dev {name} mode tap user USER; ip link set {name} up"
    return f"root makes one with `{make}`"
