"""The devices of a benchmark's guest, and the options by which each engine gets the same ones.

A disk is a raw image, which engines write through the host's page cache and flush when the guest
flushes.  The network leads through NAT in user space to the host's loopback.  A directory of the
host is shared by virtio-fs.  What QEMU and native programs need beside them, `ringlet.bench.beside`
starts, and it becomes part of the command.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.bench.engines import KVM, NATIVE, QEMU, RINGLET
from ringlet.devices.backends.network.addresses import GATEWAY, GUEST, PREFIX

DISK: Final = "disk.img"
TAG: Final = "ringlet-0"
"""The virtio-fs tag of the shared directory, as `ringlet run -v` calls the first one."""
_CACHED: Final = "if=none,id=disk,format=raw,cache=writeback"
BESIDE: Final = (sys.executable, "-m", "ringlet.bench.beside")


@dataclass(frozen=True, slots=True)
class Devices:
    """What a guest has beside its processor and RAM.

    `directory` is a directory of the host: native programs see it as /mnt.  With `disk`, the guest
    has the file DISK in it as a disk; with `shared`, the guest may mount it.  `port` is not 0 if
    programs may reach this port of the host's loopback at the gateway's address.
    """

    directory: Path | None = None
    disk: bool = False
    shared: bool = False
    port: int = 0

    @property
    def image(self) -> Path | None:
        """The file of the disk, if there is one."""
        return self.directory / DISK if self.directory is not None and self.disk else None


def with_devices(engine: str, command: list[str], devices: Devices, memory: int) -> list[str]:
    """Return `command` of `engine` with `devices`; `memory` is the guest's RAM in MiB."""
    match engine:
        case _ if engine == NATIVE:
            # Options of pasta(1) that passt has too, as Ringlet uses them.
            beside = ["pasta", "-a", GUEST, "-n", str(PREFIX), "-g", GATEWAY] * bool(devices.port)
            return _beside(beside, command)
        case _ if engine == RINGLET:
            return [*command, *_ringlet(devices)]
        case _ if engine in {QEMU, KVM}:
            return _qemu(devices, command, memory)
        case _:
            raise ValueError(engine)


def forget_cached(image: Path) -> None:
    """Write `image` to the host's disk and drop it from the host's page cache."""
    file = os.open(image, os.O_RDWR)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _ringlet(devices: Devices) -> list[str]:
    options: list[str] = []
    if devices.image is not None:
        options += ["--disk", f"{_quoted(devices.image)},format=raw"]
    if devices.shared:
        options += ["-v", f"{devices.directory}:/mnt"]
    if devices.port:
        options += ["--net", "user,host-loopback"]
    return options


def _qemu(devices: Devices, command: list[str], memory: int) -> list[str]:
    beside: list[str] = []
    options: list[str] = []
    if devices.image is not None:
        options += ["-drive", f"file={_quoted(devices.image)},{_CACHED}",
                    "-device", "virtio-blk-pci,drive=disk"]  # fmt: skip
    if devices.shared:
        beside += ["virtiofsd", str(devices.directory)]
        options += ["-object", f"memory-backend-memfd,id=ram,size={memory}M,share=on",
                    "-machine", "memory-backend=ram", "-chardev", "socket,id=fs,path={virtiofsd}",
                    "-device", f"vhost-user-fs-pci,chardev=fs,tag={TAG}"]  # fmt: skip
    if devices.port:
        beside += ["nat"]
        options += ["-netdev", "{nat}", "-device", "virtio-net-pci,netdev=nat"]
    return _beside(beside, [*command, *options])


def _beside(programs: list[str], command: list[str]) -> list[str]:
    return [*BESIDE, *programs, "--", *command] if programs else command


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")
