"""GRUB of Debian, a payload of coreboot that is loaded below 1 MiB by its Multiboot header."""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path

import pytest

import ringlet
from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import fetch_kernel
from tests.guests.packaged import shell_disk, unpacked

PATIENCE = 120
FORMAT = "i386-coreboot"
PACKAGES = ("grub-common", "grub-coreboot-bin", "libdevmapper1.02.1")
MODULES = (
    "serial", "terminal", "normal", "minicmd", "echo", "ls", "cat", "test", "eval", "hexdump",
    "memdisk", "tar", "lsmmap", "date", "linux", "reboot", "halt", "hashsum",
    "gcry_sha256",
)  # fmt: skip
SETUP = "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n"
_DRAWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def grub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of GRUB with a Linux kernel and a RAM disk in its own memory disk."""
    directory = tmp_path_factory.mktemp("grub")
    root = unpacked(PACKAGES, directory / "root")
    try:
        kernel, busybox = fetch_kernel().vmlinuz, find_busybox()
    except ImageError as error:
        pytest.skip(f"no Debian kernel here: {error}")
    (directory / "initrd").write_bytes(shell_disk(busybox))
    with tarfile.open(directory / "disk.tar", "w", format=tarfile.GNU_FORMAT) as disk:
        disk.add(kernel, "vmlinuz")
        disk.add(directory / "initrd", "initrd")
    (directory / "setup").write_text(SETUP)
    made = subprocess.run(
        [root / "usr/bin/grub-mkimage", "-O", FORMAT, "-d", root / f"usr/lib/grub/{FORMAT}", "-c",
         directory / "setup", "-m", directory / "disk.tar", "-p", "(memdisk)/", "-o",
         directory / "grub.elf", *MODULES],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"grub-mkimage does not run here: {made.stderr}")
    return directory / "grub.elf"


def typed(machine: ringlet.Machine, command: str, until: str = "grub> ") -> str:
    """Return what GRUB prints for a command, without its drawing of the line that is typed."""
    machine.console.send(f"{command}\r")
    return _DRAWN.sub("", machine.console.expect(until, PATIENCE))


def test_its_shell_runs_commands(grub: Path) -> None:
    with ringlet.Machine(str(grub), memory="128M", timeout=PATIENCE) as machine:
        machine.start()
        machine.console.expect("grub> ", PATIENCE)

        assert "\r12 8 disk\n" in typed(machine, "set x=8; echo 12 $x disk")
        assert "length = 0x7f00000, available RAM" in typed(machine, "lsmmap")
        assert "(memdisk)" in typed(machine, "ls")
        assert "vmlinuz initrd" in typed(machine, "ls (memdisk)/")


def test_its_halt_turns_the_pc_off(grub: Path) -> None:
    with ringlet.Machine(str(grub), memory="128M", timeout=PATIENCE) as machine:
        machine.start()
        machine.console.expect("grub> ", PATIENCE)
        machine.console.send("halt\r")

        assert machine.wait().status == 0


def test_it_starts_linux(grub: Path) -> None:
    with ringlet.Machine(str(grub), memory="256M", timeout=PATIENCE) as machine:
        machine.start()
        machine.console.expect("grub> ", PATIENCE)
        typed(machine, "linux (memdisk)/vmlinuz console=ttyS0 quiet panic=-1")
        typed(machine, "initrd (memdisk)/initrd")
        typed(machine, "boot", "/ # ")
        machine.console.send("busybox uname -sm; busybox poweroff -f\r")
        machine.console.expect("Linux x86_64", PATIENCE)

        assert machine.wait().status == 0
