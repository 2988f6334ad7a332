"""Programs for i386 under Debian's 64-bit kernel: Python with its own tests, and compiled ones."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.cpio import CpioWriter
from ringlet.images.debian import CLOUD_KERNEL, fetch_kernel
from ringlet.images.release import DEBIAN_12_I386
from tests.guests.compile_32 import Compiler
from tests.guests.packaged import shell_disk, unpacked_whole

PATIENCE = 500
PYTHON = ("python3.11", "libpython3.11-testsuite")
TESTS = (
    "test_int", "test_float", "test_complex", "test_math", "test_struct", "test_array",
    "test_hashlib", "test_zlib", "test_generators", "test_mmap", "test_select", "test_fork1",
)  # fmt: skip
SOURCES = Path(__file__).with_name("programs_32")
KERNEL = "linux-image-amd64/bookworm"  # the one for clouds refuses segments of 16-bit code
AT_ONCE = 3
INIT = f"""#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
cd /programs
for program in *; do
    echo "ALONE $program"
    ./$program
    echo "STATUS $?"
done
for round in $($b seq {AT_ONCE}); do
    for program in *; do
        ./$program >/tmp/$program.$round 2>&1 &
    done
done
wait
for program in *; do
    echo "TOGETHER $program $($b md5sum </tmp/$program.1)"
    $b cat /tmp/$program.? | $b md5sum
done
$b poweroff -f
"""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("programs")
    compiler = Compiler(directory / "i386")
    options = ("-O2", "-no-pie", "-pthread", "-s")
    return {
        name: compiler.build(bits, directory / name, [SOURCES / f"{name}.c"], *options)
        for name, bits in (("compute", 32), ("crossing", 64))
    }


def outputs(initrd: bytes, directory: Path, direct: str) -> list[str]:
    """Return what the guest prints, in lines."""
    kernel = _kernel(KERNEL)
    path = directory / "initrd"
    path.write_bytes(initrd)
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "--kernel", str(kernel), "--initrd", str(path),
         "-m", "256M", "--append", "console=ttyS0 quiet panic=-1", "--no-reboot", "--direct",
         direct],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
    return done.stdout.replace("\r", "").splitlines()


def _kernel(package: str) -> Path:
    try:
        find_busybox()
        return fetch_kernel(package).vmlinuz
    except ImageError as error:
        pytest.skip(f"no Debian kernel here: {error}")


@pytest.mark.parametrize("direct", ["auto", "never"])
def test_programs_print_what_they_print_on_the_host(
    programs: dict[str, Path], tmp_path: Path, direct: str
) -> None:
    """Alone and together, so that processes of 32 and of 64 bits take turns."""
    files = CpioWriter()
    files.directory("programs")
    expected = {}
    for name, path in programs.items():
        files.file(f"programs/{name}", path.read_bytes(), 0o755)
        done = subprocess.run([path], capture_output=True, timeout=60, check=True)
        expected[name] = done.stdout.decode()
    disk = shell_disk(find_busybox(), INIT) + files.contents()

    printed = "\n".join(outputs(disk, tmp_path, direct))

    for name, text in expected.items():
        assert f"ALONE {name}\n{text}STATUS 0\n" in printed
        once, all_of_them = (
            hashlib.md5((text * times).encode()).hexdigest() for times in (1, AT_ONCE)
        )
        assert f"TOGETHER {name} {once}  -\n{all_of_them}  -" in printed


def in_debian(directory: Path, *command: str, options: tuple[str, ...] = ()) -> str:
    """Return what a command prints that has `directory` as /i386."""
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "-m", "1G", "-v", f"{directory}:/i386", *options,
         "debian", "--", *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


def test_python_passes_its_own_tests(tmp_path: Path) -> None:
    _kernel(CLOUD_KERNEL)
    root = unpacked_whole(PYTHON, tmp_path / "root", DEBIAN_12_I386)
    for name in ("proc", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)
    script = (
        "mount -t proc proc /i386/proc; mount --bind /dev /i386/dev; mount -t tmpfs tmp /i386/tmp;"
        "chroot /i386 python3.11 -c 'import sys, struct; print(struct.calcsize(\"P\"))' &&"
        f"chroot /i386 python3.11 -m test {' '.join(TESTS)}"
    )
    printed = in_debian(root, "sh", "-c", script)

    assert printed.startswith("4\n")
    assert f"All {len(TESTS)} tests OK." in printed
