"""The description of a machine, from what a user gave."""

from pathlib import Path

import pytest

from ringlet.config import DEBIAN_LEAST
from ringlet.control.parts import Mount
from ringlet.control.spec import MachineSpec, machine_spec, on_command_line, require_supported
from ringlet.disk_spec import Access, DiskSpec
from ringlet.errors import ConfigError
from ringlet.network_config import NetMode, net_config
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
        disks=(DiskSpec(image, Access.READ_ONLY),), net=net_config("user", ["8080:80"]),
        env=(("A", "1"),), cwd="/root", timeout=60.0, name="box", append="quiet",
    )  # fmt: skip


def test_words(kernel: Path, image: Path) -> None:
    assert machine_spec(str(kernel)).kernel == kernel
    assert machine_spec(str(image)).disks == (DiskSpec(image),)
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


def test_what_machines_cannot_have_yet(tmp_path: Path, kernel: Path, image: Path) -> None:
    with pytest.raises(ConfigError, match="starting from a disk's own boot loader is not supp"):
        require_supported(machine_spec(str(image)), on_command_line)
    mounts = machine_spec(str(kernel), mounts=f"{tmp_path}:/mnt")
    with pytest.raises(ConfigError, match=r"^-v: a kernel of your own mounts its directories"):
        require_supported(mounts, on_command_line)


def test_a_kernel_of_ones_own_says_which_directories_it_mounts(
    tmp_path: Path, kernel: Path
) -> None:
    one, two = f"{tmp_path}:/mnt", f"{tmp_path}:/other"
    named = machine_spec(str(kernel), mounts=one, append="quiet share=ringlet-0")
    require_supported(named, on_command_line)

    with pytest.raises(ConfigError, match=r"say in --append which it mounts \(share=ringlet-1\)"):
        require_supported(
            machine_spec(str(kernel), mounts=[one, two], append="share=ringlet-0"),
            on_command_line,
        )


def test_ports_need_a_network() -> None:
    assert machine_spec("debian", ports={8080: 80}).net.mode is NetMode.USER
    assert machine_spec("debian").net.mode is NetMode.NONE
    with pytest.raises(ConfigError, match="a guest with net none has no ports"):
        machine_spec("debian", ports="8080:80", net="none")


def test_what_machines_can_have(kernel: Path) -> None:
    require_supported(machine_spec("debian", timeout=1, env=["A=1"]), on_command_line)
    require_supported(machine_spec(str(kernel), initrd=b"x"), on_command_line)


# --- user data and sockets


def test_user_data_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"#cloud-config\n")

    assert machine_spec("debian", user_data=path).user_data == b"#cloud-config\n"
    assert machine_spec("debian", user_data=b"#!/bin/sh").user_data == b"#!/bin/sh"


def test_user_data_of_a_guest_that_would_not_read_it() -> None:
    with pytest.raises(ConfigError, match="--user-data: busybox has no cloud-init"):
        machine_spec("busybox", user_data=b"#cloud-config", called=on_command_line)


def test_path_of_the_sockets() -> None:
    assert machine_spec("busybox", vsock="s").vsock == Path("s")
