"""Debian packages, unpacked into a file system with dpkg's database."""

import hashlib
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.deb import fields, open_data, read_control
from ringlet.images.dpkg import Unpacker
from ringlet.images.ext4 import GROUP_BYTES, Ext4Writer
from ringlet.images.release import DEBIAN_12
from ringlet.images.rootfs import PACKAGES, write_root
from ringlet.images.tree import Tree
from tests.unit.images.archives import NEEDS_E2FSPROGS, check, content, folder, listed, member, tar

CONTROL = (
    "Package: {name}\nVersion: 1\nArchitecture: amd64\n{more}Description: a\n long\n .\n text\n"
)


def ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def make(
    directory: Path,
    name: str = "a",
    files: bytes = b"",
    more: str = "",
    pack: Callable[[bytes], bytes] = lzma.compress,
    suffix: str = ".xz",
    **control: bytes,
) -> Path:
    """Make a package."""
    texts = {"control": CONTROL.format(name=name, more=more).encode(), **control}
    inner = tar([member(f"./{key}", value) for key, value in texts.items()])
    path = directory / f"{name}_1.deb"
    path.write_bytes(
        ar(("debian-binary", b"2.0\n"), (f"control.tar{suffix}", pack(inner)),
           (f"data.tar{suffix}", pack(files or tar([]))))
    )  # fmt: skip
    return path


@pytest.mark.parametrize(("pack", "suffix"), [(lzma.compress, ".xz"), (bytes, "")])
def test_a_package(tmp_path: Path, pack: Callable[[bytes], bytes], suffix: str) -> None:
    files = tar([member("./f", b"x")])
    deb = make(tmp_path, files=files, pack=pack, suffix=suffix, postinst=b"#!/bin/sh\n")

    with open_data(deb) as data:
        assert data.read() == files
    assert set(read_control(deb)) == {"control", "postinst"}


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 100, ar(("debian-binary", b"2.0\n")), ar(("control.tar.zzz", b"x")),
     ar(("control.tar.xz", b"not xz")), ar(("control.tar", b"x" * 10240))],
    ids=range(6),
)  # fmt: skip
def test_files_that_are_no_package(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.deb").write_bytes(data)

    with pytest.raises(ImageError, match=r"a\.deb: "):
        read_control(tmp_path / "a.deb")


def test_fields_of_several_lines() -> None:
    assert fields("A: 1\nB:\n x\n y\nC: 2") == {"A": "1", "B": "\n x\n y", "C": "2"}


@NEEDS_E2FSPROGS
def test_the_database_of_dpkg(tmp_path: Path) -> None:
    writer = Ext4Writer(tmp_path / "image", GROUP_BYTES)
    tree = Tree()
    unpacker = Unpacker(tree, writer)
    files = tar([folder("./"), folder("./etc"), member("./etc/a.conf", b"setting")])
    unpacker.add(make(tmp_path, "a", files, conffiles=b"/etc/a.conf\n", postinst=b"#!/bin/sh\n"))
    unpacker.add(make(tmp_path, "lib", more="Multi-Arch: same\n"))
    unpacker.finish()
    writer.finish(tree)
    writer.close()
    image = tmp_path / "image"
    check(image)

    status = content(image, "/var/lib/dpkg/status").decode()

    digest = hashlib.md5(b"setting", usedforsecurity=False).hexdigest()
    first, second = status.rstrip("\n").split("\n\n")
    assert first.startswith("Package: a\nStatus: install ok unpacked\nVersion: 1\n")
    assert first.endswith(f" .\n text\nConffiles:\n /etc/a.conf {digest}")
    assert second.startswith("Package: lib\n")
    assert content(image, "/var/lib/dpkg/info/a.list") == b"/.\n/etc\n/etc/a.conf\n"
    assert {"a.postinst", "lib:amd64.list"} <= set(listed(image, "/var/lib/dpkg/info"))


@NEEDS_E2FSPROGS
def test_the_root_of_debian_before_its_setup(tmp_path: Path) -> None:
    master = [
        member(f"./usr/share/base-passwd/{n}.master", n.encode()) for n in ("passwd", "group")
    ]
    debs = [
        make(tmp_path, "base-passwd", tar(master)),
        make(tmp_path, "dash", tar([folder("./bin"), member("./bin/sh", b"shell", mode=0o755)])),
    ]
    said: list[str] = []

    write_root(tmp_path / "root", debs, DEBIAN_12, said.append)

    image = tmp_path / "root"
    check(image)
    assert content(image, "/usr/bin/sh") == b"shell"
    assert content(image, "/etc/passwd") == b"passwd"
    assert b"bookworm-security" in content(image, "/etc/apt/sources.list.d/debian.sources")
    assert content(image, "/etc/machine-id") == b""
    assert "ringlet-setup" in listed(image)
    assert said == ["unpacking base-passwd, 1 of 2", "unpacking dash, 2 of 2"]


def test_another_release_without_the_known_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="this release is not known"):
        write_root(tmp_path / "root", [], DEBIAN_12, lambda _: None)


def test_the_list_of_packages_names_each_once() -> None:
    assert len(PACKAGES) == len(set(PACKAGES))
