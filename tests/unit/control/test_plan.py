"""What a machine starts from."""

from pathlib import Path

import pytest

from ringlet.control.plan import base_disk, check_files
from ringlet.control.spec import machine_spec, on_command_line
from ringlet.devices.backends.disks import open_disk
from ringlet.errors import ConfigError, DiskError
from ringlet.images.catalog import Images
from ringlet.images.store import Store
from tests.unit.devices.disks.test_images import header


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
