"""The modules of a kernel's package, and the indexes with which modprobe finds them."""

import lzma
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.modindex import index
from ringlet.images.modules import Modules
from tests.unit.images.archives import NEEDS_E2FSPROGS, check, content, member, tar
from tests.unit.images.cpio_reader import members
from tests.unit.images.test_deb import ar

RELEASE = "6.1-cloud"
ROOT = f"./usr/lib/modules/{RELEASE}"


def module(**facts: str | list[str]) -> bytes:
    """Return an ELF file with nothing but a .modinfo section."""
    items = [
        f"{key}={value}"
        for key, given in facts.items()
        for value in ([given] if isinstance(given, str) else given)
    ]
    return elf("\0".join(items).encode() + b"\0")


def elf(info: bytes, bits: int = 64) -> bytes:
    """Return an ELF file of 64 or 32 bits with nothing but a .modinfo section."""
    names = b"\0.modinfo\0.names\0"
    if bits == 64:
        kind, machine, head, section, head_form = b"\2", 62, 64, 64, "<16sHHIQQQIHHHHHH"
        form = "<IIQQQQIIQQ"
    else:
        kind, machine, head, section, head_form = b"\1", 3, 52, 40, "<16sHHIIIIIHHHHHH"
        form = "<10I"
    header = struct.pack(
        head_form, b"\x7fELF" + kind + b"\1\1", 1, machine, 1, 0, 0, head, 0, head, 0, 0, section,
        3, 2,
    )  # fmt: skip
    place = head + 3 * section
    sections = [
        bytes(section),
        struct.pack(form, 1, 1, 0, 0, place, len(info), 0, 0, 1, 0),
        struct.pack(form, 10, 3, 0, 0, place + len(info), len(names), 0, 0, 1, 0),
    ]
    return header + b"".join(sections) + info + names


def package(directory: Path, modules: Mapping[str, bytes], order: str = "") -> Path:
    """Make a kernel's package."""
    files = [member(f"{ROOT}/kernel/{path}", data) for path, data in modules.items()]
    files.append(member(f"{ROOT}/modules.order", order.encode()))
    files.append(member(f"{ROOT}/modules.builtin", b"kernel/fs/ext4.ko\n"))
    facts = b"ext4.alias=fs-ext4\0ext4.license=GPL\0"
    files.append(member(f"{ROOT}/modules.builtin.modinfo", facts))
    path = directory / "kernel.deb"
    path.write_bytes(ar(("debian-binary", b"2.0\n"), ("data.tar", tar(files))))
    return path


@pytest.fixture
def modules(tmp_path: Path) -> Modules:
    return Modules(
        package(
            tmp_path,
            {
                "net/net-a.ko.xz": lzma.compress(
                    module(depends="b,c", alias=["pci:v1", "net-x[-]-y"], softdep="pre: d")
                ),
                "b.ko": module(depends="d", alias=["char-major-10-200", "devname:net/tun"]),
                "c.ko": module(depends="d"),
                "d.ko": module(depends=""),
            },
            "kernel/d.ko\nkernel/b.ko\n",
        ),
        RELEASE,
    )


def look_up(data: bytes, key: str) -> list[str]:
    """Return the values of a key as kmod finds them (libkmod-index.c)."""
    magic, version, node = struct.unpack_from(">III", data)
    assert (magic, version) == (0xB007F457, 0x20001)
    rest = key.encode()
    while True:
        place = node & 0x0FFF_FFFF
        if node & 0x8000_0000:
            end = data.index(b"\0", place)
            prefix, place = data[place:end], end + 1
            if not rest.startswith(prefix):
                return []
            rest = rest[len(prefix) :]
        children: dict[int, int] = {}
        if node & 0x2000_0000:
            first, last = data[place], data[place + 1]
            places = struct.unpack_from(f">{last - first + 1}I", data, place + 2)
            children = dict(zip(range(first, last + 1), places, strict=True))
            place += 2 + 4 * len(places)
        if not rest:
            return _values(data, place) if node & 0x4000_0000 else []
        node = children.get(rest[0], 0)
        rest = rest[1:]
        if not node:
            return []


def _values(data: bytes, place: int) -> list[str]:
    (count,) = struct.unpack_from(">I", data, place)
    place += 4
    found = []
    for _ in range(count):
        end = data.index(b"\0", place + 4)
        found.append((struct.unpack_from(">I", data, place)[0], data[place + 4 : end].decode()))
        place = end + 1
    return [value for _, value in sorted(found)]


def test_an_index() -> None:
    entries = {"ab": "1", "abc": "2", "abd": "3", "xyz": "4", "": "5", "a": "6", "abcdef": "7"}
    data = index(entries.items())

    assert {key: look_up(data, key) for key in entries} == {k: [v] for k, v in entries.items()}
    assert [look_up(data, key) for key in ("x", "abcd", "zz", "xyzz")] == [[]] * 4


def test_an_index_with_several_values_of_a_key() -> None:
    assert look_up(index([("a", "2"), ("b", "1"), ("a", "0")]), "a") == ["2", "0"]


def test_an_empty_index() -> None:
    assert look_up(index([]), "a") == []


def test_modules_are_loaded_after_what_they_need(modules: Modules) -> None:
    assert [m.name for m in modules.order(["net-a"])] == ["d", "b", "c", "net_a"]
    assert [m.name for m in modules.order(["virtio_pci"])] == []


def test_modules_that_need_each_other(tmp_path: Path) -> None:
    found = {"a.ko": module(depends="b"), "b.ko": module(depends="a")}

    assert {m.name for m in Modules(package(tmp_path, found), RELEASE).order(["a"])} == {"a", "b"}


def test_the_archive_for_an_initial_ram_disk(modules: Modules) -> None:
    found = members(modules.boot_archive(["net_a", "virtio_pci"]))

    assert found["ringlet/modules/order"].content == b"net_a d b c net_a\nvirtio_pci \n"
    assert found["ringlet/modules/net_a.ko"].content.startswith(b"\x7fELF")


@NEEDS_E2FSPROGS
def test_the_disk_of_modules(modules: Modules, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    modules.write_image(disk)
    check(disk)

    def read(name: str) -> bytes:
        return content(disk, f"/{RELEASE}/{name}")

    assert read("kernel/net/net-a.ko.xz").startswith(b"\xfd7zXZ")
    line = "kernel/net/net-a.ko.xz: kernel/c.ko kernel/b.ko kernel/d.ko"
    assert line in read("modules.dep").decode().splitlines()
    assert look_up(read("modules.dep.bin"), "net_a") == [line]
    assert look_up(read("modules.alias.bin"), "pci:v1") == ["net_a"]
    assert look_up(read("modules.alias.bin"), "net_x[-]_y") == ["net_a"]
    assert look_up(read("modules.builtin.bin"), "ext4") == [""]
    assert look_up(read("modules.builtin.alias.bin"), "fs_ext4") == ["ext4"]
    assert read("modules.softdep") == b"softdep net_a pre: d\n"
    assert read("modules.devname") == b"b net/tun c10:200\n"


def test_modules_for_the_80386(tmp_path: Path) -> None:
    data = elf(b"depends=b\0alias=net-a\0", bits=32)
    modules = Modules(package(tmp_path, {"a.ko": data, "b.ko": module()}), RELEASE)

    assert [found.name for found in modules.order(["a"])] == ["b", "a"]


@pytest.mark.parametrize("data", [b"", b"\x7fELF", bytes(64), module()[:200]])
def test_damaged_modules(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ImageError, match=r"a\.ko: this kernel module has no \.modinfo"):
        Modules(package(tmp_path, {"a.ko": data}), RELEASE)


def test_damaged_compression(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.ko\.xz: this kernel module is damaged"):
        Modules(package(tmp_path, {"a.ko.xz": b"\xfd7zXZ\0garbage"}), RELEASE)
