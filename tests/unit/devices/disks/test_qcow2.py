"""qcow2 images, by the engine."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from tests.unit.devices.disks.driver import Driver
from tests.unit.devices.disks.model import STEPS, Model, storm
from tests.unit.devices.disks.test_kills import WRITER

from ringlet.devices.backends.disks import Operation, create_image, engine, opening
from ringlet.devices.backends.disks.chain import OpenImage
from ringlet.devices.backends.disks.engine_disk import EngineDisk
from ringlet.disk_spec import Access, DiskSpec, Format
from ringlet.errors import DiskError, HostError

MIB = 1 << 20
SIZE = 256 << 10

installed = pytest.mark.skipif(
    shutil.which(engine.PROGRAM) is None, reason="needs qemu-storage-daemon"
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return create_image(tmp_path / "a.qcow2", 64 * MIB, Format.QCOW2).path


def pid(disk: Driver) -> int:
    """The engine's process group."""
    assert isinstance(disk.disk, EngineDisk)
    return disk.disk.engine_process


@installed
@given(steps=STEPS)
@settings(max_examples=20)
def test_any_operations_read_as_a_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Model.Step]
) -> None:
    place = tmp_path_factory.mktemp("model")
    model = Model.filled(SIZE)
    (place / "base.img").write_bytes(model.data)
    top = create_image(place / "a.qcow2", None, Format.QCOW2, place / "base.img").path

    with Driver(DiskSpec(top)) as disk:
        model.check(disk, steps)
    with Driver(DiskSpec(top)) as disk:
        assert disk.read(0, SIZE) == model.data

    assert (place / "base.img").read_bytes() == Model.filled(SIZE).data


@installed
def test_many_requests_at_once(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        storm(disk, SIZE, rounds=4)


@installed
def test_requests_longer_than_a_slot_of_the_engine(image: Path) -> None:
    data = os.urandom(MIB) * 40
    with Driver(DiskSpec(image)) as disk:
        assert disk.write(MIB, data, parts=7) == 0
        assert disk.read(MIB, len(data), parts=3) == data
        assert disk.write_zeros(0, 64 * MIB) == 0
        assert disk.read(MIB, len(data)) == bytes(len(data))


@installed
def test_a_write_that_must_be_durable(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        assert disk.write(0, b"f" * MIB, fua=True) == 0
        assert disk.read(0, MIB) == b"f" * MIB


def needs_qemu_img() -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img (qemu-utils)")


@installed
def test_compressed_clusters_are_read_and_replaced(tmp_path: Path) -> None:
    needs_qemu_img()
    model = Model.filled(SIZE)
    (tmp_path / "a.img").write_bytes(model.data)
    packed = tmp_path / "packed.qcow2"
    command = "qemu-img convert -c -O qcow2 a.img packed.qcow2"
    subprocess.run(command.split(), check=True, cwd=tmp_path)

    with Driver(DiskSpec(packed)) as disk:
        assert disk.read(0, SIZE) == model.data
        assert disk.write(4096, b"n" * 512) == 0
        assert disk.read(4096, 1024) == b"n" * 512 + model.data[4608:5120]


@installed
def test_a_snapshot_leaves_the_image(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        disk.write(0, b"o" * MIB)
    before = image.read_bytes()

    with Driver(DiskSpec(image, Access.SNAPSHOT)) as disk:
        assert disk.write(512, b"n" * 512) == 0
        assert disk.read(0, 2048) == b"o" * 512 + b"n" * 512 + b"o" * 1024

    assert image.read_bytes() == before


@installed
def test_a_read_only_image_is_not_written(image: Path) -> None:
    before = image.read_bytes()
    with Driver(DiskSpec(image, Access.READ_ONLY)) as disk:
        assert disk.write(0, bytes(512)) == errno.EROFS
        assert disk.flush() == 0

    assert image.read_bytes() == before


@installed
def test_discard_gives_room_back(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        disk.write(0, os.urandom(8 * MIB))
        assert disk.flush() == 0
        before = image.stat().st_blocks

        assert disk.discard(0, 8 * MIB) == 0
        assert disk.flush() == 0

    assert image.stat().st_blocks < before // 2


@installed
def test_an_engine_that_is_killed_is_told_and_fails_requests(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        os.killpg(pid(disk), signal.SIGSTOP)
        ended = [disk.begin(Operation.FLUSH) for _ in range(40)]

        os.killpg(pid(disk), signal.SIGKILL)

        assert {one.wait() for one in ended} == {errno.EIO}
        assert disk.begin(Operation.FLUSH).wait() == errno.EIO
    assert {len(one.codes) for one in ended} == {1}
    assert len([line for line in disk.lines if "has ended" in line]) == 1


@installed
def test_an_engine_does_not_outlive_its_shell(image: Path) -> None:
    with Driver(DiskSpec(image)) as disk:
        os.kill(pid(disk), signal.SIGKILL)

        deadline = time.monotonic() + 10
        while not disk.lines:
            assert time.monotonic() < deadline
            time.sleep(0.01)

        assert disk.begin(Operation.FLUSH).wait() == errno.EIO
    with Driver(DiskSpec(image)) as disk:
        assert disk.flush() == 0


@installed
def test_close_does_not_wait_for_ever(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringlet.devices.backends.disks.engine_disk.CLOSING", 0.2)
    with Driver(DiskSpec(image)) as disk:
        os.killpg(pid(disk), signal.SIGSTOP)
        ended = disk.begin(Operation.FLUSH)

    assert ended.codes == [errno.EIO]


@installed
def test_a_full_host_is_an_error_of_the_guest_and_one_line(image: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 * MIB, before[1]))
    try:
        disk = Driver(DiskSpec(image))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with disk:
        codes = {disk.write(n * MIB, os.urandom(MIB)) for n in range(2, 20)}

        assert disk.read(0, 512) == bytes(512)
    assert errno.EIO in codes
    assert codes <= {0, errno.EIO}
    assert len(disk.lines) == 1


@installed
def test_an_image_in_use_names_the_machine(image: Path) -> None:
    with (
        Driver(DiskSpec(image)),
        pytest.raises(DiskError, match=rf"\(process {os.getpid()}\) writes this image"),
    ):
        Driver(DiskSpec(image))


@installed
def test_an_image_below_that_is_in_use_is_named(tmp_path: Path) -> None:
    base = create_image(tmp_path / "base.qcow2", MIB, Format.QCOW2).path
    top = create_image(tmp_path / "top.qcow2", None, Format.QCOW2, base).path

    with (
        Driver(DiskSpec(base)),
        pytest.raises(DiskError, match=rf"base.qcow2: .*\(process {os.getpid()}\) writes this"),
    ):
        Driver(DiskSpec(top))


@installed
def test_the_engine_opens_the_files_that_were_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * MIB)
    (tmp_path / "base").write_bytes(b"b" * MIB)
    top = create_image(tmp_path / "top.qcow2", None, Format.QCOW2, tmp_path / "base").path

    def start(image: OpenImage, *, read_only: bool) -> engine.Engine:
        (tmp_path / "base").rename(tmp_path / "gone")
        (tmp_path / "base").symlink_to(tmp_path / "secret")
        return engine.start_engine(image, read_only=read_only)

    monkeypatch.setattr(opening, "start_engine", start)

    with Driver(DiskSpec(top)) as disk:
        assert disk.read(0, 512) == b"b" * 512


@installed
def test_a_damaged_image_is_one_line(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(40)
        file.write(b"\xff" * 8)  # the offset of the L1 table

    with pytest.raises(DiskError, match=r"^disk [^\n]*a.qcow2: [^\n{}]*$"):
        Driver(DiskSpec(image))


@installed
def test_an_engine_does_not_outlive_its_machine(image: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, image], stdout=subprocess.PIPE
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(4)
        engines = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()

    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{number}").exists() for number in engines):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert engines


def test_a_missing_engine_says_what_to_install(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(HostError, match=r"install qemu-utils.*qemu-system-common.*qemu-img"):
        Driver(DiskSpec(image))
