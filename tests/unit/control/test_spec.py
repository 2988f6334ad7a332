"""The description of a machine, from what a user gave."""

from pathlib import Path

import pytest

from ringlet.config import DEBIAN_LEAST
from ringlet.control.parts import Disk, Mount, Net, Port
from ringlet.control.spec import MachineSpec, machine_spec, on_command_line, require_supported
from ringlet.errors import ConfigError
from tests.unit.machine.kernel_maker import BzImage


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return BzImage().write(tmp_path / "bzImage")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(100))
    return path


def test_all_that_a_machine_may_have(tmp_path: Path, kernel: Path, image: Path) -> None:
    spec = machine_spec(
        "debian", kernel=str(kernel), root=str(tmp_path), memory="512M",
        mounts=[f"{tmp_path}:/mnt:ro"], disks=f"{image},ro", ports="8080:80",
        env={"A": "1"}, cwd="/root", timeout="1m", name="box",
        append="quiet",
    )  # fmt: skip

    assert spec == MachineSpec(
        guest="debian", kernel=kernel, root=tmp_path, memory=512 << 20,
        mounts=(Mount(tmp_path.resolve(), "/mnt", read_only=True),),
        disks=(Disk(image, read_only=True),), ports=(Port(8080, 80),), net=Net("user"),
        env=(("A", "1"),), cwd="/root", timeout=60.0, name="box", append="quiet",
    )  # fmt: skip


def test_words(kernel: Path, image: Path) -> None:
    assert machine_spec(str(kernel)).kernel == kernel
    assert machine_spec(str(image)).disks == (Disk(image),)
    assert machine_spec("docker://python").image == "docker://python"
    assert machine_spec("debian").guest == "debian"


def test_a_disk_to_start_from_comes_first(tmp_path: Path, image: Path) -> None:
    (tmp_path / "more.img").touch()
    spec = machine_spec(str(image), disks=[str(tmp_path / "more.img")])

    assert [disk.path.name for disk in spec.disks] == ["disk.qcow2", "more.img"]


def test_two_kernels_are_one_too_many(kernel: Path) -> None:
    with pytest.raises(ConfigError, match="a machine starts one kernel"):
        machine_spec(str(kernel), kernel=kernel)


def test_a_guests_own_least_memory(kernel: Path) -> None:
    assert machine_spec("debian", memory=DEBIAN_LEAST).memory == DEBIAN_LEAST
    assert machine_spec(str(kernel), memory="8M").memory == 8 << 20
    with pytest.raises(ConfigError, match=r"^--memory 90: too small; give at least 96M"):
        machine_spec("debian", memory=90, called=on_command_line)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disks": "DISK"}, "^--disk: disks are not supported yet"),
        ({"mounts": "/tmp:/mnt"}, "^-v: shared directories are not supported yet"),
        ({"root": "/"}, "^--root: a directory as the root is not supported yet"),
        ({"ports": "1:1"}, "^-p: networks are not supported yet"),
        ({"net": "tap:tap0"}, "^--net: networks are not supported yet"),
        ({"guest": "oci:/x"}, "^oci:/x: images are not supported yet"),
        ({"guest": "DISK"}, "disk.qcow2: starting from a disk is not supported yet"),
    ],
)
def test_what_machines_cannot_have_yet(
    image: Path, options: dict[str, str], message: str
) -> None:
    given = {name: str(image) if v == "DISK" else v for name, v in options.items()}
    spec = machine_spec(given.pop("guest", "debian"), **given)  # type: ignore[arg-type]  # texts

    with pytest.raises(ConfigError, match=message):
        require_supported(spec, on_command_line)


def test_what_machines_can_have(kernel: Path) -> None:
    require_supported(machine_spec("debian", timeout=1, env=["A=1"]), on_command_line)
    require_supported(machine_spec(str(kernel), initrd=b"x"), on_command_line)
