"""Boots Debian's kernel with virtio devices, its own modules for them, and a script."""

import lzma
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ringlet.config import LinuxConfig
from ringlet.images.busybox import applets, find_busybox
from ringlet.images.cpio import CpioWriter
from ringlet.images.debian import CachedKernel
from ringlet.images.tools import started
from ringlet.machine import boot
from ringlet.machine.engine import Engine
from ringlet.machine.outcome import EndKind
from ringlet.machine.pc import Options, Pc, Wire
from ringlet.machine.pci_slots import MakeDevice

MODULES: Final = (  # in the order in which they are loaded; a kernel has some of them built in
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
    "virtio_blk", "rng-core", "virtio-rng", "virtio_console", "virtio_balloon", "vsock",
    "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport", "evdev", "button",
)  # fmt: skip
_INIT: Final = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in %s; do
    if [ -e /modules/$module.ko ]; then insmod /modules/$module.ko; fi
done
%s
poweroff -f
"""
MEMORY: Final = 512 << 20


def modules(kernel: CachedKernel) -> dict[str, bytes]:
    """Return the contents of those of MODULES that the kernel's package has."""
    wanted = re.compile(rf"(?:.*/)({'|'.join(MODULES)})\.ko(\.xz)?")
    found = {}
    with (
        started(["dpkg-deb", "--fsys-tarfile", kernel.package]) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            match = wanted.fullmatch(member.name)
            if match is not None and (file := archive.extractfile(member)) is not None:
                data = file.read()
                found[match[1]] = lzma.decompress(data) if match[2] else data
    return found


@dataclass
class Guest:
    """A kernel with its modules; `run` boots it."""

    kernel: CachedKernel
    modules: Mapping[str, bytes]
    output: bytearray = field(default_factory=bytearray)
    made: Pc | None = None

    def run(
        self,
        script: str,
        devices: Sequence[MakeDevice],
        *,
        files: Mapping[str, bytes] | None = None,
        append: str = "",
        started: Callable[[Pc], None] = lambda pc: None,
    ) -> str:
        """Return what `script` writes to the serial port; it ends by turning the machine off."""

        def write(data: bytes) -> None:
            self.output += data

        config = LinuxConfig(
            self.kernel.vmlinuz, MEMORY, self.initrd(script, files or {}),
            f"console=ttyS0 quiet panic=-1 {append}",
        )  # fmt: skip
        pc = boot.build(config, Engine(), Options([Wire(write)], devices=devices))
        started(pc)
        end = pc.machine.run()
        text = self.output.decode(errors="replace").replace("\r\n", "\n")
        assert end.kind is EndKind.POWER_OFF, f"{end.message}\n{text}"
        return text

    def initrd(self, script: str, files: Mapping[str, bytes]) -> bytes:
        """Return an initial RAM disk that runs `script` and then turns the machine off."""
        archive = CpioWriter()
        for name in ("bin", "dev", "proc", "sys", "tmp", "modules"):
            archive.directory(name)
        archive.character_device("dev/console", 5, 1)
        busybox = find_busybox()
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
        assert "bin/insmod" in applets(busybox) or "sbin/insmod" in applets(busybox)
        for name, content in self.modules.items():
            archive.file(f"modules/{name}.ko", content)
        for name, content in files.items():
            archive.file(name, content, 0o755)
        archive.file("init", (_INIT % (" ".join(MODULES), script)).encode(), 0o755)
        return archive.contents()
