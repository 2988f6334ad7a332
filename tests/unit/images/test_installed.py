"""The modules of a kernel that is installed on this host."""

import struct
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.arguments import kernel_release
from ringlet.images.debian import kernel_of
from ringlet.images.installed import InstalledModules, installed_modules
from ringlet.images.store import Store
from tests.unit.images.cpio_reader import members

RELEASE = "6.1.0-test"
DEPENDENCIES = """\
kernel/fs/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2.ko
kernel/fs/jbd2.ko: kernel/lib/crc16.ko
kernel/lib/crc16.ko:
kernel/lib/libcrc32c-generic.ko:
"""


def bzimage(path: Path, release: str = RELEASE) -> Path:
    """Write the part of a kernel's file that says its release."""
    head = bytearray(0x400)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    text = f"{release} (builder@host) #1 SMP".encode()
    head[0x300 : 0x300 + len(text)] = text
    path.write_bytes(head)
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A directory as /lib/modules."""
    directory = tmp_path / "library" / RELEASE
    for line in DEPENDENCIES.splitlines():
        file = directory / line.partition(":")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(file.name.encode())
    (directory / "modules.dep").write_text(DEPENDENCIES)
    (directory / "modules.alias").write_text(
        "# Aliases\nalias crypto-crc32c libcrc32c_generic\nalias fs-ext4 ext4\n"
    )
    (directory / "modules.softdep").write_text("softdep ext4 pre: crypto-crc32c post: other\n")
    return directory.parent


def test_modules_come_after_what_they_need(tmp_path: Path, library: Path) -> None:
    modules = installed_modules(bzimage(tmp_path / "vmlinuz"), (tmp_path / "none", library))
    assert modules is not None
    found = members(modules.boot_archive(["ext4", "built-in"]))
    needed = ["crc16", "jbd2", "libcrc32c_generic", "ext4"]

    assert [module.name for module in modules.order(["ext4"])] == needed
    assert found["ringlet/modules/order"].content == (
        f"ext4 {' '.join(needed)}\nbuilt_in \n".encode()
    )
    assert found["ringlet/modules/libcrc32c_generic.ko"].content == b"libcrc32c-generic.ko"


def test_modules_that_are_built_in_are_there(library: Path) -> None:
    (library / RELEASE / "modules.builtin").write_text("kernel/drivers/char/virtio-console.ko\n")
    modules = InstalledModules(library / RELEASE, RELEASE)

    assert [modules.has(name) for name in ("virtio_console", "ext4", "crc32c")] == [
        True, True, False,
    ]  # fmt: skip


def test_modules_beside_the_kernel_count_first(tmp_path: Path, library: Path) -> None:
    beside = tmp_path / "lib/modules" / RELEASE
    beside.mkdir(parents=True)
    (beside / "modules.dep").write_text("kernel/own.ko:\n")

    modules = installed_modules(bzimage(tmp_path / "vmlinuz"), (library,))

    assert modules is not None
    assert [module.name for module in modules.order(["own", "ext4"])] == ["own"]


def test_kernel_without_modules_on_this_host(tmp_path: Path, library: Path) -> None:
    assert installed_modules(bzimage(tmp_path / "vmlinuz", "6.2.0"), (library,)) is None
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF")
    assert installed_modules(tmp_path / "vmlinux", (library,)) is None


def test_module_that_is_gone(tmp_path: Path, library: Path) -> None:
    (library / RELEASE / "kernel/fs/jbd2.ko").unlink()
    modules = InstalledModules(library / RELEASE, RELEASE)

    with pytest.raises(ImageError, match=r"jbd2\.ko: no such file; run depmod"):
        modules.boot_archive(["ext4"])


def test_list_that_is_too_long(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringlet.images.installed._LONGEST_LIST", 10)

    with pytest.raises(ImageError, match="is larger than"):
        InstalledModules(library / RELEASE, RELEASE)


def test_release_of_a_kernel(tmp_path: Path) -> None:
    assert kernel_release(bzimage(tmp_path / "one")) == RELEASE
    assert kernel_release(bzimage(tmp_path / "two", "../../x")) == ""
    assert kernel_release(tmp_path / "none") == ""


def test_kernel_of_the_cache_is_known_by_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    with store.locked(), store.adding("kernels/trixie", "some") as (directory, facts):
        (directory / "vmlinuz").write_bytes(b"kernel")
        (directory / "package.deb").write_bytes(b"package")
        facts["release"] = RELEASE
    (tmp_path / "link").symlink_to(store.root / "kernels/trixie/some/vmlinuz")
    (tmp_path / "vmlinuz").write_bytes(b"kernel")

    found = kernel_of(store.root / "kernels/trixie/some/vmlinuz", store)

    assert found is not None and found.release == RELEASE
    assert kernel_of(tmp_path / "link", store) == found
    assert kernel_of(tmp_path / "vmlinuz", store) is None
    assert kernel_of(store.root / "kernels/trixie/some/package.deb", store) is None
