"""Which machines can use one image at a time; another one is another process, or QEMU."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.devices.disks.driver import Driver

from ringlet.disk_spec import Access, DiskSpec
from ringlet.errors import DiskError

OPENER = """
import sys
from ringlet.devices.backends.disks import open_disk
from ringlet.disk_spec import parse_disk
disk = open_disk(parse_disk(sys.argv[1]), print)
print("open", flush=True)
sys.stdin.read()
"""
Holder = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def holder() -> Iterator[Holder]:
    """A process that has a disk open until it is killed."""
    begun: list[subprocess.Popen[str]] = []

    def begin(disk: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OPENER, disk],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("", Access.WRITE), ("", Access.READ_ONLY), ("", Access.SNAPSHOT), (",ro", Access.WRITE),
     (",snapshot", Access.WRITE)],
)  # fmt: skip
def test_a_writer_is_alone(image: Path, holder: Holder, theirs: str, ours: Access) -> None:
    process = holder(f"{image}{theirs}")

    does, advice = ("reads", "add ,snapshot to") if theirs else ("writes", "use a copy of the")
    said = rf"\(process {process.pid}\) {does} this image; end that process, or {advice}"
    with pytest.raises(DiskError, match=said):
        Driver(DiskSpec(image, ours))

    process.kill()
    process.wait()
    Driver(DiskSpec(image, ours)).disk.close()


@pytest.mark.parametrize("theirs", [",ro", ",snapshot"])
@pytest.mark.parametrize("ours", [Access.READ_ONLY, Access.SNAPSHOT])
def test_readers_share(image: Path, holder: Holder, theirs: str, ours: Access) -> None:
    holder(f"{image}{theirs}")

    Driver(DiskSpec(image, ours)).disk.close()


def test_one_machine_cannot_have_an_image_twice(image: Path) -> None:
    with (
        Driver(DiskSpec(image)),
        pytest.raises(DiskError, match=rf"process {os.getpid()}\) writes this image; give it once"),
    ):
        Driver(DiskSpec(image))


@pytest.fixture
def qemu_io() -> str:
    program = shutil.which("qemu-io")
    if program is None:
        pytest.skip("needs qemu-io (qemu-utils)")
    return program


@pytest.mark.parametrize(
    ("access", "mode", "works"),
    [
        (Access.WRITE, "-r", True),  # as a reader, qemu-io bears writers of raw images
        (Access.WRITE, "-n", False),
        (Access.READ_ONLY, "-r", True),
        (Access.READ_ONLY, "-n", False),
        (Access.SNAPSHOT, "-r", True),
        (Access.SNAPSHOT, "-n", False),
    ],
)
def test_qemu_respects_our_locks(
    image: Path, qemu_io: str, access: Access, mode: str, works: bool
) -> None:
    with Driver(DiskSpec(image, access)):
        done = subprocess.run(
            [qemu_io, mode, "-f", "raw", "-c", "read 0 512", image],
            capture_output=True, check=False, text=True,
        )  # fmt: skip

    assert ("lock" not in done.stderr) is works, done.stderr


@pytest.mark.parametrize(
    ("mode", "access", "works"),
    [
        ("-n", Access.WRITE, False),
        ("-n", Access.READ_ONLY, False),
        ("-r", Access.WRITE, True),
        ("-r", Access.READ_ONLY, True),
        ("-r", Access.SNAPSHOT, True),
    ],
)
def test_we_respect_qemus_locks(
    image: Path, qemu_io: str, mode: str, access: Access, works: bool
) -> None:
    with subprocess.Popen(
        [qemu_io, mode, "-f", "raw", image],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("read 0 512\n")
        process.stdin.flush()
        assert "512" in process.stdout.readline()

        why = ""
        try:
            Driver(DiskSpec(image, access)).disk.close()
        except DiskError as error:
            why = str(error)
        process.stdin.write("quit\n")

    assert (f"qemu-io (process {process.pid})" in why) is not works
    assert bool(why) is not works


def test_a_file_system_without_locks_is_told(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> bytes:
        raise OSError(errno.ENOLCK, "no")

    monkeypatch.setattr(fcntl, "fcntl", refuse)

    with Driver(DiskSpec(image)) as disk:
        assert disk.write(0, bytes(512)) == 0

    (line,) = disk.lines
    assert line.startswith(f"disk {image}: its file system has no locks; make sure that no other")


def test_a_machine_that_is_just_ending_is_waited_for(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Driver(DiskSpec(image))
    monkeypatch.setattr(time, "sleep", lambda seconds: first.disk.close())

    Driver(DiskSpec(image)).disk.close()
