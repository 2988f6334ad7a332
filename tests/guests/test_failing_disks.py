"""Disks of a host that fails: the guest goes on, its user is told in one line (docs/disks.md)."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import ringlet
from ringlet.devices.backends.disks import create_image, engine
from ringlet.disk_spec import Access, DiskSpec, Format
from tests.guests.failing import (
    PATIENCE,
    RINGLET,
    SMALL,
    Told,
    descendants,
    fill,
    shell,
)
from tests.unit.devices.disks.driver import Driver

MIB = 1 << 20
ROOM = 8 * MIB
READ = "dd if=/dev/vda of=/dev/null bs=64k iflag=direct"

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


def guest_with(disk: str | Path) -> ringlet.Machine:
    return ringlet.Machine("busybox", memory="128M", disks=[str(disk)])


def needs_engine(layout: Format) -> None:
    if layout is Format.QCOW2 and shutil.which(engine.PROGRAM) is None:
        pytest.skip(f"needs {engine.PROGRAM}")


def make(path: Path, layout: Format, size: int = 4 * SMALL) -> Path:
    needs_engine(layout)
    return create_image(path, size, layout).path


# --- a full file system


@pytest.mark.parametrize("kind", ["raw", "qcow2", "snapshot"])
def test_a_write_waits_for_room_and_nothing_is_lost(
    small: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "snapshot":
        monkeypatch.setenv("TMPDIR", str(small))
        disk = f"{make(tmp_path / 'base.img', Format.RAW)},snapshot"
    else:
        disk = str(make(small / "disk", Format(kind)))
    filler = fill(small, ROOM // 2)
    with guest_with(disk) as machine:
        machine.start().ready(PATIENCE)
        shell(machine, f"head -c {ROOM} /dev/urandom >/tmp/data")
        process = machine.popen("dd if=/tmp/data of=/dev/vda bs=1M conv=fsync")
        line = told.wait_for("No space left on device")
        assert process.poll() is None
        # Where nothing is being written: Linux would wait for that first.
        shell(machine, "dd if=/dev/vda of=/dev/null skip=100000 count=1 iflag=direct")

        filler.unlink()

        assert process.wait(PATIENCE) == 0
        shell(machine, f"head -c {ROOM} /dev/vda | cmp - /tmp/data")
        assert "Buffer I/O error" not in shell(machine, "dmesg")
    assert "make room on its file system; the guest's writes wait for 60 s" in line
    assert len([text for text in told.lines() if "space" in text]) == 1


def test_a_guest_whose_writes_wait_ends_when_its_user_wants(small: Path, told: Told) -> None:
    disk = make(small / "disk", Format.RAW)
    fill(small, 0)
    with guest_with(disk) as machine:
        machine.start().ready(PATIENCE)
        machine.popen("dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync")
        told.wait_for("No space left on device")


def test_a_limit_of_file_sizes_may_be_raised_during_the_run(tmp_path: Path) -> None:
    """As an ordinary user, by the command line."""
    disk = tmp_path / "disk.img"
    disk.touch()
    os.truncate(disk, 1 << 30)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    with subprocess.Popen(
        ["prlimit", f"--fsize={600 * MIB}:", *RINGLET, "run", "-m", "128M", "--disk", disk,
         "busybox", "--",
         "dd", "if=/dev/zero", "of=/dev/vda", "bs=1M", "seek=600", "count=1", "conv=fsync"],
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        rest = process.stderr.read().decode()

    assert line.startswith(f"ringlet: disk {disk}: File too large: raise the limit of file sizes")
    assert "ringlet:" not in rest
    assert process.returncode == 0
    assert disk.stat().st_blocks > 0


# --- files that go away


def test_a_file_cut_short_gives_errors_behind_its_end(tmp_path: Path, told: Told) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(os.urandom(4 * MIB))
    with guest_with(disk) as machine:
        machine.start().ready(PATIENCE)
        os.truncate(disk, MIB)
        said = shell(machine, f"{READ} || echo failed")
        shell(machine, "dd if=/dev/urandom of=/dev/vda bs=64k count=1 conv=fsync")
    assert "Input/output error" in said
    assert said.endswith("failed\n")
    (line,) = told.lines()
    assert line == (
        f"ringlet: disk {disk}: the file has become shorter; the guest gets I/O errors behind its "
        "end"
    )


@pytest.mark.parametrize("layout", Format)
def test_a_file_that_is_removed_is_told_at_a_flush(
    tmp_path: Path, told: Told, layout: Format
) -> None:
    disk = make(tmp_path / "disk", layout)
    with guest_with(disk) as machine:
        machine.start().ready(PATIENCE)
        disk.unlink()
        shell(machine, "dd if=/dev/urandom of=/dev/vda bs=64k count=1 conv=fsync")
        line = told.wait_for("removed")
    assert told.lines() == [line]
    assert line == (
        f"ringlet: disk {disk}: the file was removed; what the guest writes is lost when it ends"
    )


def test_a_backing_file_is_in_use_as_long_as_the_guest(tmp_path: Path, told: Told) -> None:
    """A file without its name stays; the next start finds none."""
    needs_engine(Format.QCOW2)
    base = tmp_path / "base.img"
    base.write_bytes(b"base" * MIB)
    disk = create_image(tmp_path / "top.qcow2", None, Format.QCOW2, base).path
    with guest_with(disk) as machine:
        machine.start().ready(PATIENCE)
        base.unlink()
        said = shell(machine, f"head -c 8 /dev/vda; {READ}")
    assert said.startswith("basebase")
    assert told.lines() == []

    done = subprocess.run(
        [*RINGLET, "run", "--disk", disk, "busybox", "true"], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"ringlet: disk {base}: No such file or directory; this is the backing file of another "
        "image, which needs it\n"
    )


def test_an_engine_that_is_killed_gives_errors_and_keeps_what_was_flushed(
    tmp_path: Path, told: Told
) -> None:
    disk = make(tmp_path / "disk.qcow2", Format.QCOW2)
    with guest_with(disk) as machine:
        machine.start().ready(PATIENCE)
        shell(machine, "yes flushed | head -c 65536 | dd of=/dev/vda bs=64k conv=fsync")
        for process in descendants(lambda name: name == engine.PROGRAM[:15]):
            os.kill(process, signal.SIGKILL)
        said = shell(machine, f"{READ} || dd if=/dev/zero of=/dev/vda conv=fsync || echo no")
        assert shell(machine, "echo alive") == "alive\n"
    assert said.endswith("no\n")
    assert said.count("Input/output error") == 2
    (line,) = told.lines()
    assert line.startswith(f"ringlet: disk {disk}: {engine.PROGRAM} has ended (")
    assert line.endswith("); the guest gets I/O errors")
    with Driver(DiskSpec(disk, Access.READ_ONLY)) as image:
        assert image.read(0, 512) == b"flushed\n" * 64


# --- what cannot be used at the start


@pytest.mark.parametrize("layout", Format)
def test_a_disk_that_another_has_is_told(tmp_path: Path, layout: Format) -> None:
    disk = make(tmp_path / "disk", layout)
    with Driver(DiskSpec(disk)):
        done = subprocess.run(
            [*RINGLET, "run", "--disk", disk, "busybox", "true"], capture_output=True, check=False
        )
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"ringlet: disk {disk}: ")
    assert "use" in line


@pytest.mark.parametrize("temporary", ["/proc", "/nonexistent"])
def test_a_snapshot_finds_another_directory(tmp_path: Path, temporary: str) -> None:
    disk = make(tmp_path / "disk", Format.RAW)
    done = subprocess.run(
        [*RINGLET, "run", "-m", "128M", "--disk", f"{disk},snapshot", "busybox", "--",
         "dd", "if=/dev/zero", "of=/dev/vda", "bs=4k", "count=1", "conv=fsync"],
        capture_output=True, check=False, env={**os.environ, "TMPDIR": temporary},
    )  # fmt: skip
    assert done.returncode == 0
    assert b"ringlet:" not in done.stderr
