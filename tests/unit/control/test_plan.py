"""What a machine starts from."""

from pathlib import Path
from typing import NoReturn

import pytest

from ringlet.control.plan import base_disk, check_files, plan
from ringlet.control.spec import machine_spec, on_command_line
from ringlet.devices.backends.disks import open_disk
from ringlet.errors import ConfigError, DiskError, ProgramError
from ringlet.images.catalog import Images
from ringlet.images.store import Store
from tests.unit.devices.disks.test_images import header
from tests.unit.machine.elf_maker import Part, elf32
from tests.unit.machine.multiboot_maker import header_1


def no_setup(*arguments: object) -> NoReturn:
    raise AssertionError("a kernel of the user's own needs no image")


def test_an_image_of_the_store_shows_no_other_file(tmp_path: Path) -> None:
    """It may have been put there before imports looked for that."""
    images = Images(Store(tmp_path))
    with images.adding("evil", "disk") as draft:
        draft.format = "qcow2"
        draft.disk.write_bytes(header(b"/etc/passwd").ljust(1 << 16, b"\0"))
    image = images.find("evil")
    assert image is not None

    with pytest.raises(DiskError, match="it shows the guest /etc/passwd"):
        open_disk(base_disk(image), print)


def test_sockets_in_a_directory_that_the_guest_may_write_to(tmp_path: Path) -> None:
    spec = machine_spec("busybox", mounts=f"{tmp_path}:/mnt", vsock=tmp_path / "s")

    with pytest.raises(ConfigError, match=r"^--vsock .*/s: the guest may write to .*; give a path"):
        check_files(spec, on_command_line)
    check_files(machine_spec("busybox", mounts=f"{tmp_path}:/mnt:ro", vsock=tmp_path / "s"))


def test_a_multiboot_kernel_starts_without_a_guest(tmp_path: Path) -> None:
    kernel = elf32((Part(0x100000, header_1()),)).write(tmp_path / "kernel")
    check_files(machine_spec(kernel=kernel))

    with pytest.raises(ProgramError, match="is a Multiboot kernel, but Ringlet's guests need"):
        check_files(machine_spec("busybox", kernel=kernel))


@pytest.mark.parametrize(
    ("append", "multiboot", "linux"),
    [(None, "", "console=ttyS0 panic=-1"), ("", "", ""), ("debug", "debug", "debug")],
)
def test_the_usual_command_line_is_for_linux(
    tmp_path: Path, append: str | None, multiboot: str, linux: str
) -> None:
    kernel = elf32((Part(0x100000, header_1()),)).write(tmp_path / "kernel")
    other = elf32((Part(0x100000, bytes(12)),)).write(tmp_path / "vmlinux")
    plans = [
        plan(machine_spec(kernel=path, append=append), None, run_setup=no_setup)
        for path in (kernel, other)
    ]

    assert [p.append for p in plans] == [multiboot, linux]


@pytest.mark.parametrize("word", ["root=/dev/nosuch", "init=/nosuch"])
def test_arguments_that_nothing_would_heed(word: str, tmp_path: Path) -> None:
    for spec in (
        machine_spec("busybox", append=f"loglevel=3 {word}"),
        machine_spec(root=tmp_path, append=word),
    ):
        with pytest.raises(ConfigError, match=f"^--append {word}: has no effect on a guest"):
            check_files(spec, on_command_line)


def test_arguments_that_the_kernel_heeds() -> None:
    check_files(machine_spec("busybox", append="rootwait noinitrd rdinit=/init"))
