"""Fetching from Debian: the host's own apt against a repository in a directory."""

import os
import shutil
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.apt import Apt, is_debian_12
from ringlet.images.debian import CachedKernel, fetch_busybox, fetch_kernel, fetch_packages
from ringlet.images.store import Store
from tests.unit.images.packages import NEEDS_APT, Repository, names

META = "linux-image-cloud-amd64"
REAL = "linux-image-6.1.0-99-cloud-amd64"


class Host:
    """A repository with a kernel, a store, and an apt of which updates are counted."""

    def __init__(self, directory: Path) -> None:
        self.repository = Repository(directory / "debian")
        self.store = Store(directory / "cache/ringlet")
        self.lines: list[str] = []

    def publish(self, number: int = 99, content: bytes = b"bzImage") -> Path:
        real = f"linux-image-6.1.0-{number}-cloud-amd64"
        version = f"6.1.{number}-1"
        files = {
            f"boot/config-{number}": b"",
            f"boot/vmlinuz-6.1.0-{number}-cloud-amd64": content,
            "lib/modules/x.ko": b"module",
        }
        deb = self.repository.add(real, files, version=version)
        self.repository.add(META, {}, depends=f"{real} (= {version}), kmod", version=version)
        return deb

    def apt(self) -> Apt:
        return Apt(self.store.root / "apt", sources=self.repository.sources)

    def kernel(self, *, refresh: bool = False) -> CachedKernel:
        return fetch_kernel(
            META, self.lines.append, store=self.store, apt=self.apt(), refresh=refresh
        )

    def updates(self) -> int:
        return self.lines.count("fetching Debian's package lists")

    def entries(self) -> list[str]:
        return names(self.store.root / "kernels")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@NEEDS_APT
def test_the_kernel_a_metapackage_depends_on_is_fetched(host: Host) -> None:
    deb = host.publish()
    kernel = host.kernel()

    assert kernel.vmlinuz.read_bytes() == b"bzImage"
    assert kernel.package.read_bytes() == deb.read_bytes()
    assert (kernel.release, kernel.version) == ("6.1.0-99-cloud-amd64", "6.1.99-1")
    assert host.lines == ["fetching Debian's package lists", f"fetching {REAL} from Debian"]


@NEEDS_APT
def test_a_kernels_own_package_may_be_named(host: Host) -> None:
    host.publish()
    kernel = fetch_kernel(REAL, store=host.store, apt=host.apt())

    assert kernel.vmlinuz.read_bytes() == b"bzImage"


@NEEDS_APT
def test_cached_kernel_needs_no_apt(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host.publish()
    first = host.kernel()
    monkeypatch.setenv("PATH", str(tmp_path))
    shutil.rmtree(host.repository.directory)

    assert host.kernel() == first


@NEEDS_APT
@pytest.mark.parametrize("name", ["vmlinuz", "package.deb", "manifest.json"])
def test_a_damaged_entry_is_fetched_again(host: Host, name: str) -> None:
    host.publish()
    path = host.kernel().vmlinuz.with_name(name)
    path.write_bytes(path.read_bytes()[:-3] + b"xxx")
    kernel = host.kernel()

    assert kernel.vmlinuz.read_bytes() == b"bzImage"
    assert host.entries() == [META]


@NEEDS_APT
def test_refresh_takes_the_newer_kernel(host: Host) -> None:
    host.publish()
    host.kernel()
    host.publish(100, b"newer")
    kept = host.kernel()
    refreshed = host.kernel(refresh=True)

    assert (kept.version, refreshed.version) == ("6.1.99-1", "6.1.100-1")
    assert refreshed.vmlinuz.read_bytes() == b"newer"


@NEEDS_APT
def test_lists_of_the_same_day_are_not_fetched_again(host: Host) -> None:
    host.publish()
    shutil.rmtree(host.kernel().vmlinuz.parent)
    host.kernel()

    assert host.updates() == 1


@NEEDS_APT
def test_old_lists_are_fetched_again(host: Host) -> None:
    host.publish()
    shutil.rmtree(host.kernel().vmlinuz.parent)
    os.utime(host.store.root / "apt/updated", (0, 0))
    host.kernel()

    assert host.updates() == 2


@NEEDS_APT
def test_lists_that_name_a_version_that_is_gone_are_fetched_again(host: Host) -> None:
    host.publish().unlink()
    with pytest.raises(ImageError):
        host.kernel()
    host.publish(100, b"newer")

    assert host.kernel().vmlinuz.read_bytes() == b"newer"


@NEEDS_APT
def test_unknown_package(host: Host) -> None:
    with pytest.raises(ImageError, match=f"{META}: Debian 12 has no such package"):
        host.kernel()

    assert host.entries() == []


@NEEDS_APT
def test_a_package_that_is_not_what_the_lists_say_is_refused(host: Host) -> None:
    deb = host.publish()
    content = bytearray(deb.read_bytes())
    content[-1] ^= 1
    deb.write_bytes(content)

    with pytest.raises(ImageError, match=f"cannot fetch {REAL}: .*Hash Sum mismatch"):
        host.kernel()
    assert host.entries() == []


@NEEDS_APT
def test_a_package_without_a_kernel(host: Host) -> None:
    host.repository.add(REAL, {"boot/config": b""})
    host.repository.add(META, {}, depends=REAL)

    with pytest.raises(ImageError, match="this package has no kernel; give a package such as"):
        host.kernel()
    assert host.entries() == []


@NEEDS_APT
def test_a_server_that_cannot_be_reached(host: Host) -> None:
    # Nothing listens on port 9 (discard).
    sources = "Types: deb\nURIs: http://localhost:9/debian\nSuites: ./\nTrusted: yes\n"
    apt = Apt(host.store.root / "apt", sources=sources)

    with pytest.raises(ImageError) as caught:
        fetch_kernel(META, store=host.store, apt=apt)

    assert "the network does not reach Debian" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert host.entries() == []


@NEEDS_APT
@pytest.mark.parametrize("place", ["bin/busybox", "usr/bin/busybox"])
def test_busybox_is_fetched_to_be_run(host: Host, place: str) -> None:
    host.repository.add("busybox-static", {place: b"#!/bin/sh\n"})
    tool = fetch_busybox(store=host.store, apt=host.apt())

    assert tool.read_bytes() == b"#!/bin/sh\n"
    assert os.access(tool, os.X_OK)
    assert fetch_busybox(store=host.store, apt=host.apt()) == tool


def test_without_apt_the_message_says_so(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ImageError, match="apt-get is not installed, but fetching Debian"):
        host.kernel()


@pytest.mark.parametrize("name", ["", "-o", "a/../b", "A", "a b", "../kernels"])
def test_names_that_no_package_has(host: Host, name: str) -> None:
    with pytest.raises(ImageError, match="is not the name of a package"):
        fetch_kernel(name, store=host.store)


@NEEDS_APT
def test_another_host_needs_debians_keyring(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text("ID=ubuntu\nVERSION_ID=24.04\n")
    apt = Apt(tmp_path, os_release=tmp_path / "os-release", keyring=tmp_path / "none.gpg")

    with pytest.raises(
        ImageError, match=r"none.gpg is missing, .*; install debian-archive-keyring"
    ):
        apt.prepare()


@NEEDS_APT
def test_another_host_takes_packages_from_debian(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_ID=13\n")
    (tmp_path / "key.gpg").touch()
    root = tmp_path / "apt"
    Apt(root, os_release=tmp_path / "os-release", keyring=tmp_path / "key.gpg").prepare()

    assert (
        "http://deb.debian.org/debian\nSuites: bookworm " in (root / "debian.sources").read_text()
    )
    assert f'sourcelist "{root}/debian.sources"' in (root / "apt.conf").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"\n', True),
        ("ID='debian'\nVERSION_ID=12\n", True),
        ("ID=debian\nVERSION_ID=13\n", False),
        ("ID=ubuntu\nVERSION_ID=12\n", False),
        ("nonsense\n", False),
    ],
)
def test_debian_12_is_known_by_os_release(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "os-release").write_text(text)

    assert is_debian_12(tmp_path / "os-release") is expected


def test_a_host_without_os_release_is_another(tmp_path: Path) -> None:
    assert not is_debian_12(tmp_path / "os-release")


@NEEDS_APT
def test_packages_come_with_all_that_they_depend_on(host: Host, tmp_path: Path) -> None:
    host.repository.add("tool", {"bin/tool": b"t"}, depends="library (>= 1.0), data | other")
    host.repository.add("library", {"lib/l": b"l"}, version="1.2-1")
    host.repository.add("data", {"share/d": b"d"})
    host.repository.add("unwanted", {"share/u": b"u"})
    (tmp_path / "debs").mkdir()

    debs, versions = fetch_packages(
        ["tool"], tmp_path / "debs", host.lines.append, store=host.store, apt=host.apt()
    )

    assert versions == {"tool": "1.0-1", "library": "1.2-1", "data": "1.0-1"}
    assert sorted(deb.name.split("_")[0] for deb in debs) == ["data", "library", "tool"]
    assert host.lines[-1].startswith("fetching 3 packages from Debian, ")


@NEEDS_APT
def test_packages_that_debian_does_not_have_are_named(host: Host, tmp_path: Path) -> None:
    (tmp_path / "debs").mkdir()

    with pytest.raises(ImageError, match="Unable to locate package tool"):
        fetch_packages(["tool"], tmp_path / "debs", store=host.store, apt=host.apt())


@NEEDS_APT
def test_packages_that_need_more_room_are_not_fetched(host: Host, tmp_path: Path) -> None:
    host.repository.add("tool", {"bin/tool": b"t"})
    (tmp_path / "debs").mkdir()

    with pytest.raises(ImageError, match=r"too little room; free 1024 TiB there, or set"):
        fetch_packages(
            ["tool"], tmp_path / "debs", store=host.store, apt=host.apt(), room=lambda _: 1 << 50
        )
    assert names(tmp_path / "debs") == []
