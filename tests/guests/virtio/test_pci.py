"""PCI with the drivers of Debian's kernels: routes of interrupts, resets, ports that move."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ringlet
from ringlet.devices.backends.disks.opening import open_disk
from ringlet.devices.virtio.block import Block
from ringlet.disk_spec import parse_disk
from ringlet.machine.pci_slots import MakeDevice
from tests.guests.virtio.guest import Guest

PATIENCE = 90
FUNCTION = "0000:00:02.0"
Failed = Callable[[Exception], None]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    return image


def disk_of(path: Path) -> MakeDevice:
    disk = open_disk(parse_disk(str(path)), pytest.fail)
    return lambda failed: Block(disk, failed, "disk")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("append", "controller", "said"),
    [
        ("pci=nomsi", "IO-APIC", "ACPI: Using IOAPIC for interrupt routing"),
        ("noapic pci=nomsi", "XT-PIC", r"ACPI: \\?_SB_\.LNKB: Enabled at IRQ 10"),
        ("acpi=noirq pci=nomsi", "XT-PIC", r"PIIX/ICH IRQ router \[8086:7000\]"),
        ("noapic", "PCI-MSI", "ACPI: Using PIC for interrupt routing"),
    ],
)
def test_disk_works_by_every_route(
    guest: Guest, image: Path, append: str, controller: str, said: str
) -> None:
    """By _PRT's inputs of the I/O APIC, by its link devices, by the table for older guests."""
    before = digest(image)
    text = guest.run(
        "sha256sum /dev/vda\n"
        "tr '\\0' w </dev/zero | dd of=/dev/vda bs=4k count=20 conv=fsync 2>/dev/null\n"
        "grep virtio0 /proc/interrupts; dmesg\n",
        [disk_of(image)],
        append=append,
    )
    counts = re.findall(rf" (\d+) +{controller}\S* ", text)

    assert f"{before}  /dev/vda" in text
    assert image.read_bytes()[:81920] == b"w" * 81920
    assert sum(map(int, counts)) >= 5
    assert re.search(said, text)


@pytest.mark.parametrize("append", ["", "pci=nomsi"])
def test_function_is_reset_and_works_again(guest: Guest, image: Path, append: str) -> None:
    text = guest.run(
        "sha256sum /dev/vda\n"
        f"cd /sys/bus/pci/devices/{FUNCTION}; cat reset_method\n"
        f"echo {FUNCTION} >driver/unbind; echo 1 >reset && echo 'was reset'\n"
        f"echo {FUNCTION} >/sys/bus/pci/drivers/virtio-pci/bind\n"
        "sha256sum /dev/vda\n"
        "dd if=/dev/zero of=/dev/vda bs=4k count=20 conv=fsync 2>/dev/null && echo written\n",
        [disk_of(image)],
        append=append,
    )

    assert "af_flr\nwas reset\n" in text
    assert len(set(re.findall(r"^(\w{64})  /dev/vda", text, re.MULTILINE))) == 1
    assert text.count("  /dev/vda") == 2
    assert "written" in text
    assert image.read_bytes()[:81920] == bytes(81920)


def test_function_is_reset_under_a_driver_that_then_goes(guest: Guest, image: Path) -> None:
    """The driver of that time knows nothing of it; the device does nothing until it is bound."""
    text = guest.run(
        f"cd /sys/bus/pci/devices/{FUNCTION}; echo 1 >reset && echo 'was reset'\n"
        f"echo {FUNCTION} >driver/unbind; echo {FUNCTION} >/sys/bus/pci/drivers/virtio-pci/bind\n"
        "sha256sum /dev/vda\n",
        [disk_of(image)],
    )

    assert "was reset" in text
    assert f"{digest(image)}  /dev/vda" in text


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program that prints what ports read."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this host")
    target = tmp_path_factory.mktemp("port") / "port"
    source = Path(__file__).with_name("port.c")
    subprocess.run(
        ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", target, source],
        check=True, timeout=60,
    )  # fmt: skip
    return target.read_bytes()


def test_fixed_acpi_hardware_moves(guest: Guest, port: bytes) -> None:
    """PM1_CNT has SCI_EN; the guest turns itself off when the hardware is back."""
    text = guest.run(
        "config=/sys/bus/pci/devices/0000:00:01.3/config\n"
        "move() { printf $1 | dd of=$config bs=1 seek=64 conv=notrunc 2>/dev/null; }\n"
        "/bin/port 1540 45060; move '\\1\\260\\0\\0'\n"
        "/bin/port 1540 45060; move '\\1\\6\\0\\0'\n",
        [],
        files={"bin/port": port},
    )

    assert "01 ff \nff 01 \n" in text


def test_whole_machine_is_reset_by_cf9(image: Path) -> None:
    with ringlet.Machine(
        "busybox", memory="256M", disks=[f"{image},ro"], append="reboot=pci", reboot=True
    ) as machine:
        try:
            machine.start()
        except ringlet.ImageError as error:
            pytest.skip(f"no kernel here: {error}")
        machine.ready(PATIENCE)
        machine.console.send("reboot -f\n")
        machine.console.expect("Restarting system", PATIENCE)
        machine.ready(PATIENCE)

        said = machine.run("sha256sum /dev/vda", timeout=PATIENCE).stdout
        assert said == f"{digest(image)}  /dev/vda\n"
