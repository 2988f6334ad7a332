"""Images of guests: Debian built without root, and the image of a container."""

from pathlib import Path

import pytest

from ringlet.control.setup import setup_runner
from ringlet.errors import ImageError
from ringlet.images.building import KernelModules, fetch_modules, find_debian
from ringlet.images.busybox import find_busybox
from ringlet.images.catalog import Image, Images
from ringlet.images.debian import CachedKernel
from ringlet.images.ext4 import GROUP_BYTES
from ringlet.images.imports import import_image
from ringlet.images.store import Store, default_root
from ringlet.machine.outcome import EndKind
from tests.guests.disk_guest import DiskGuest
from tests.unit.images.archives import NEEDS_E2FSPROGS, Layout, check, folder, link, member, tar

pytestmark = pytest.mark.timeout(900)


def silent(_text: str) -> None:
    pass


@pytest.fixture(scope="session")
def modules(kernel: CachedKernel) -> KernelModules:
    return fetch_modules(kernel, silent, store=Store(default_root()))


@pytest.fixture(scope="session")
def debian(modules: KernelModules) -> Image:
    """Debian's image, which the first test builds where there is none."""
    try:
        return find_debian(Images(), setup_runner(), silent)
    except ImageError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(f"no packages of Debian here: {error}")


@NEEDS_E2FSPROGS
def test_the_built_image_is_a_clean_file_system(debian: Image) -> None:
    check(debian.disk)


def test_debian_boots_to_systemd_and_nothing_has_failed(
    kernel: CachedKernel, modules: KernelModules, debian: Image
) -> None:
    guest = DiskGuest(kernel, modules, debian.disk)
    with guest.running() as runner:
        guest.expect("root@debian:~#")
        guest.type("echo state:$(systemctl is-system-running --wait)\n")
        guest.expect("state:running")
        guest.type("echo failed:$(systemctl --failed --plain --no-legend | wc -l)\n")
        guest.expect("failed:0")
        guest.type("modprobe vfat; echo modules:$(grep -c ^vfat /proc/modules)\n")
        guest.expect("modules:1")
        guest.type("echo root:$(findmnt -no FSTYPE /) unfinished:$(dpkg --audit | wc -l)\n")
        guest.expect("root:ext4 unfinished:0")
        guest.type("systemctl poweroff\n")
        assert runner.done.wait(60)

    assert runner.end is not None and runner.end.kind is EndKind.POWER_OFF


def test_a_command_in_debian_without_systemd(
    kernel: CachedKernel, modules: KernelModules, debian: Image
) -> None:
    script = "cat /etc/debian_version; ls /lib/modules; echo wrong >&2; touch /x; exit 3"
    guest = DiskGuest(kernel, modules, debian.disk, "/bin/sh", "-c", script)

    end = guest.run()

    assert (end.kind, guest.status, guest.errors) == (EndKind.POWER_OFF, [3], b"wrong\n")
    assert guest.output.startswith(b"12.") and kernel.release.encode() in guest.output


@pytest.mark.parametrize("overlay", [False, True], ids=["disk", "overlay"])
def test_a_command_in_the_image_of_a_container(
    kernel: CachedKernel, modules: KernelModules, tmp_path: Path, *, overlay: bool
) -> None:
    busybox = find_busybox().read_bytes()
    layout = Layout(tmp_path / "layout")
    below = [
        folder("bin"), member("bin/busybox", busybox, mode=0o755), link("bin/sh", "busybox"),
        member("gone"), member("data", b"lower", uid=12, gid=34, mode=0o640),
    ]  # fmt: skip
    above = [
        member(".wh.gone"), link("same", "data2"), member("data2", b"upper"),
        link("hard", "data2", hard=True),
    ]  # fmt: skip
    layout.image([tar(below), tar(above)], {"Cmd": ["/bin/sh"]})
    images = Images(Store(tmp_path / "ringlet"))
    image = import_image(f"oci:{layout.write()}", images, silent, size=2 * GROUP_BYTES)
    script = (
        "b=/bin/busybox; $b ls /; $b cat /data /same; $b stat -c '%u %g %a' /data; "
        "$b stat -c %h /hard; $b dd if=/dev/zero of=/big bs=1M count=64 2>&1; $b df /"
    )
    guest = DiskGuest(kernel, modules, image.disk, "/bin/sh", "-c", script, overlay=overlay)

    guest.run()

    lines = guest.output.decode().split("\n")
    assert guest.status == [0]
    assert "gone" not in lines and "data2" in lines
    assert "lowerupper12 34 640" in lines
    assert "2" in lines
