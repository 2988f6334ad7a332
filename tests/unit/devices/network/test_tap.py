"""Mistakes with taps; test_isolated has one that works."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from ringlet.devices.backends.network import tap
from ringlet.devices.backends.network.tap import TapLink
from ringlet.errors import ConfigError, HostError


@pytest.fixture(autouse=True)
def interface(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which each interface is there."""
    monkeypatch.setattr(tap, "_mtu", lambda name: 1500)


def test_a_host_without_the_device_is_told(tmp_path: Path) -> None:
    device = tmp_path / "tun"
    with pytest.raises(HostError) as caught:
        TapLink("tap0", device=device)

    assert str(caught.value) == (
        f"--net tap:tap0: cannot open {device} (No such file or directory); `modprobe tun`, or "
        "start the container with --device /dev/net/tun"
    )


def test_anothers_tap_is_told_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, request: int, argument: bytes) -> bytes:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(ConfigError, match="--net tap:tap0: it is not this user's; root makes one"):
        TapLink("tap0", device=Path("/dev/null"))

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_lost_interface_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", lambda *call: 0)
    told: list[str] = []
    link = TapLink("tap0", device=Path("/dev/null"), lost=told.append)
    link.failed("File descriptor in bad state")
    link.close()

    (line,) = told
    assert line == (
        "the network's interface (tap tap0) was removed or fails (File descriptor in bad state): "
        "the guest has no network from now on"
    )
