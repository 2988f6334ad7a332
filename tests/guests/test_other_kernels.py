"""Kernels of Debian that are older, or for 32-bit processors, with a shell of busybox."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import ringlet
from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import fetch_kernel
from ringlet.images.release import DEBIAN_12_I386
from tests.guests.packaged import busybox_of_i386, packaged_file, shell_disk

PATIENCE = 180
"""Seconds; a boot takes some ten on an idle machine."""
OLDER = "linux-image-amd64/bullseye"
KERNEL_OF_I386 = "linux-image-686"
TROUBLE = "dmesg | busybox grep -cE 'WARNING|BUG:|Oops|Call Trace'"

pytestmark = pytest.mark.timeout(600)  # the first test fetches the kernels


@pytest.fixture(scope="module")
def older() -> Path:
    try:
        find_busybox()
        return fetch_kernel(OLDER).vmlinuz
    except ImageError as error:
        pytest.skip(f"no kernel of Debian 11 here: {error}")


@pytest.fixture(scope="module")
def for_i386(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel for 32-bit processors without PAE: its page tables have two levels."""
    return packaged_file(
        KERNEL_OF_I386, r"\./boot/vmlinuz-.*-686", tmp_path_factory.mktemp("i386"), DEBIAN_12_I386
    )


def shell(kernel: Path, disk: bytes, *commands: str) -> list[list[str]]:
    """Return the lines that a shell on the kernel's serial port prints for each command."""
    printed = []
    with ringlet.Machine(kernel=kernel, initrd=disk, memory="256M", timeout=PATIENCE) as machine:
        machine.start()
        for number, command in enumerate(commands):
            machine.console.expect("/ # ", PATIENCE)
            machine.console.send(f"{command}; echo =$(({number}))=\r")
            lines = machine.console.expect(f"={number}=\r\n", PATIENCE).splitlines()
            printed.append(lines[1:-1])
        machine.console.send("busybox poweroff -f\r")
        assert machine.wait().status == 0
    return printed


@pytest.mark.parametrize("package", ["linux-image-686-pae", "linux-image-686"])
def test_a_package_for_i386_runs_a_command(package: str) -> None:
    """It has a busybox of its own, and its streams and exit status by serial ports."""
    script = "uname -m; cat; dmesg | grep -cE 'WARNING|BUG:|Oops|Call Trace'; exit 7"
    command = ["busybox", "--package", f"{package}:i386/bookworm", "--", "sh", "-c", script]
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "run", *command], input=b"from the host\n",
        capture_output=True, timeout=3 * PATIENCE, check=False,
    )  # fmt: skip
    if b"cannot fetch" in done.stderr:
        pytest.skip(done.stderr.decode())

    assert done.stdout == b"i686\nfrom the host\n0\n", done.stderr
    assert done.returncode == 7


def test_an_image_of_64_bits_is_refused_to_a_kernel_of_32() -> None:
    command = ["debian", "--package", "linux-image-686-pae:i386/bookworm", "true"]
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "run", *command], capture_output=True, timeout=PATIENCE,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if b"cannot fetch" in done.stderr:
        pytest.skip(done.stderr.decode())

    assert done.returncode != 0
    assert b"the image has 64-bit ones; give a package for amd64" in done.stderr


def test_debian_11_boots_to_a_shell(older: Path) -> None:
    """The decompressor of Linux 5.10 leaves long mode once, for a trampoline of 32-bit code."""
    disk = shell_disk(find_busybox())
    printed = shell(older, disk, "busybox uname -m", "busybox uname -r", f"busybox {TROUBLE}")

    assert printed[0] == ["x86_64"]
    assert printed[1][0].startswith("5.10.")
    assert printed[2] == ["0"]


def test_debian_11s_kernel_runs_guests_with_a_name(older: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "busybox", "--package", OLDER, "--",
         "sh", "-c", "uname -r; exit 7"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip

    assert done.stdout.startswith("5.10.")
    assert (done.returncode, done.stderr) == (7, "")


def test_a_kernel_for_i386_boots_to_a_shell(for_i386: Path, tmp_path: Path) -> None:
    disk = shell_disk(busybox_of_i386(tmp_path))
    numbers = "\n".join(map(str, range(1, 20001))) + "\n"
    words = ("ringlet\n" * 500_000).encode()
    printed = shell(
        for_i386, disk, "busybox uname -m", "busybox uname -r", f"busybox {TROUBLE}",
        "for i in 1 2 3 4 5 6 7 8; do (busybox seq 20000 | busybox md5sum) & done; wait",
        "busybox yes ringlet | busybox head -c 4000000 | busybox gzip | busybox gunzip | "
        "busybox sha1sum",
    )  # fmt: skip

    assert printed[0] == ["i686"]
    assert printed[1][0].endswith("-686")
    assert printed[2] == ["0"]
    assert printed[3].count(f"{hashlib.md5(numbers.encode()).hexdigest()}  -") == 8
    assert printed[4] == [f"{hashlib.sha1(words).hexdigest()}  -"]
