"""Linux's own tests of x86 (tools/testing/selftests/x86), of 32 and 64 bits, in guests.

They come with Debian's package of the kernel's sources.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ringlet.direct.support import obstacle
from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.cpio import CpioWriter
from ringlet.images.deb import open_data
from ringlet.images.debian import fetch_kernel, fetch_package
from ringlet.images.release import DEBIAN_12, DEBIAN_12_I386
from tests.guests.compile_32 import Compiler
from tests.guests.packaged import busybox_of_i386, packaged_file, shell_disk

SOURCES = "linux-source-6.1"
PATIENCE = 240
BOTH = (
    "check_initial_reg_state", "fsgsbase_restore", "ioperm", "iopl", "ldt_gdt", "mov_ss_trap",
    "ptrace_syscall", "sigaltstack", "sigreturn", "sigtrap_loop", "single_step_syscall",
    "syscall_arg_fault", "syscall_nt", "sysret_ss_attrs", "test_mremap_vdso", "test_vsyscall",
)  # fmt: skip
OF_32_BITS = (
    "entry_from_vm86", "test_FCMOV", "test_FCOMI", "test_FISTTP", "test_syscall_vdso",
    "unwind_vdso", "vdso_restorer",
)  # fmt: skip
OF_64_BITS = ("corrupt_xstate_header", "fsgsbase", "syscall_numbering", "sysret_rip")
HELPERS = {
    "ptrace_syscall_32": "raw_syscall_helper_32.S",
    "test_syscall_vdso_32": "thunks_32.S",
    "sysret_ss_attrs_64": "thunks.S",
}
OPTIONS = ("-O2", "-std=gnu99", "-pthread", "-w", "-no-pie", "-DCAN_BUILD_32", "-DCAN_BUILD_64")
START = {"check_initial_reg_state": "-Wl,-ereal_start"}
INIT = """#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs tmp /tmp
exec >/dev/ttyS0 2>&1
cd /tests
for test in *; do
    $b timeout -s KILL 60 ./$test >/tmp/out 2>&1
    echo "TEST $test $?"
    $b grep -e FAIL -e assert /tmp/out
done
echo "WARNINGS $($b dmesg | $b grep -cE 'WARNING|BUG:|Oops|Call Trace')"
$b poweroff -f
"""

pytestmark = pytest.mark.timeout(900)  # the first test fetches the sources, which are 140 MB

Programs = dict[str, bytes]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    directory = tmp_path_factory.mktemp("linux")
    compiler = Compiler(directory / "i386")
    try:
        tree = _sources(directory)
    except ImageError as error:
        pytest.skip(f"no sources of Linux here: {error}")
    found = {}
    for bits, names in ((32, (*BOTH, *OF_32_BITS)), (64, (*BOTH, *OF_64_BITS))):
        for name in names:
            whole = f"{name}_{bits}"
            sources = [tree / f"{name}.c"]
            sources += [tree / HELPERS[whole]] if whole in HELPERS else []
            options = [*OPTIONS, "-s", f"-I{tree.parent}"]
            options += [START[name]] if name in START else []
            found[whole] = compiler.build(bits, directory / whole, sources, *options).read_bytes()
    return found


def _sources(directory: Path) -> Path:
    """Unpack the tests and the headers that they include; return the directory of the tests."""
    wanted = ("*/tools/testing/selftests/x86/*", "*/tools/testing/selftests/*.h",
              "*/arch/x86/include/asm/desc_defs.h")  # fmt: skip
    command = ["tar", "-xJ", "-C", str(directory), "--wildcards", *wanted]
    deb = fetch_package(SOURCES, DEBIAN_12)
    with open_data(deb) as data, tarfile.open(fileobj=data, mode="r|") as package:
        packed = next(member for member in package if member.name.endswith(".tar.xz"))
        content = package.extractfile(packed)
        assert content is not None
        with subprocess.Popen(command, stdin=subprocess.PIPE) as tar:
            assert tar.stdin is not None
            shutil.copyfileobj(content, tar.stdin, 1 << 20)
    assert tar.returncode == 0
    return directory / SOURCES / "tools/testing/selftests/x86"


def disk(busybox: Path, programs: Programs) -> bytes:
    tests = CpioWriter()
    tests.directory("tests")
    for name, content in sorted(programs.items()):
        tests.file(f"tests/{name}", content, 0o755)
    return shell_disk(busybox, INIT) + tests.contents()


def failed(
    kernel: Path, initrd: bytes, directory: Path, *options: str
) -> tuple[dict[str, str], int]:
    """Return what the tests say that fail, and how many succeed."""
    path = directory / "initrd"
    path.write_bytes(initrd)
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "--kernel", str(kernel), "--initrd", str(path),
         "-m", "512M", "--append", "console=ttyS0 quiet panic=-1 vsyscall=xonly", "--no-reboot",
         *options],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    ended = re.split(r"^(?=TEST |WARNINGS )", done.stdout.replace("\r", ""), flags=re.MULTILINE)
    assert ended[-1].startswith("WARNINGS 0"), done.stdout[-2000:] + done.stderr[-500:]
    wrong = [text for text in ended[1:-1] if not text.partition("\n")[0].endswith(" 0")]
    return {text.split()[1]: text for text in wrong}, len(ended) - 2 - len(wrong)


@pytest.mark.parametrize("direct", ["auto", "never"])
def test_on_a_64_bit_kernel(programs: Programs, direct: str, tmp_path: Path) -> None:
    if direct != "never" and (why := obstacle()):
        pytest.skip(why)
    try:
        kernel, busybox = fetch_kernel("linux-image-amd64/bookworm").vmlinuz, find_busybox()
    except ImageError as error:
        pytest.skip(f"no Debian kernel here: {error}")

    assert failed(kernel, disk(busybox, programs), tmp_path, "--direct", direct) == (
        {}, len(programs)
    )  # fmt: skip


def test_on_a_32_bit_kernel(programs: Programs, tmp_path: Path) -> None:
    """Here is virtual-8086 mode, too, and page tables have two levels."""
    kernel = packaged_file("linux-image-686", r"\./boot/vmlinuz-.*-686", tmp_path, DEBIAN_12_I386)
    chosen = {name: code for name, code in programs.items() if name.endswith("_32")}

    assert failed(kernel, disk(busybox_of_i386(tmp_path), chosen), tmp_path) == ({}, len(chosen))
