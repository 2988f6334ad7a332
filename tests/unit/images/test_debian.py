"""Fetching from Debian: the host's own apt against a repository in a directory."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images import repository
from ringlet.images.apt import SOURCES, Apt, runs
from ringlet.images.debian import (
    CachedKernel,
    fetch_busybox,
    fetch_kernel,
    fetch_package,
    fetch_packages,
    private_apt,
)
from ringlet.images.release import DEBIAN_12, DEBIAN_13, RELEASES, Release, split_release
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
        return sorted(path.name for path in self.store.root.glob("kernels/*/*"))


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
def test_a_metapackage_may_have_a_number_in_its_name(host: Host, tmp_path: Path) -> None:
    real = "linux-image-6.1.0-99-686"
    host.repository.add("linux-image-686", {}, depends=f"{real} (= 6.1.99-1)")
    deb = host.repository.add(real, {f"boot/vmlinuz-{real}": b"bzImage"})
    found = fetch_package("linux-image-686", DEBIAN_12, store=host.store, apt=host.apt())

    assert found.read_bytes() == deb.read_bytes()
    assert found.parent == host.store.root / "packages/bookworm/linux-image-686"


@NEEDS_APT
def test_a_package_is_fetched_once(host: Host) -> None:
    host.publish()
    first = fetch_package(REAL, DEBIAN_12, store=host.store, apt=host.apt())
    shutil.rmtree(host.repository.directory)

    assert fetch_package(REAL, DEBIAN_12, store=host.store, apt=host.apt()) == first


@NEEDS_APT
def test_packages_of_i386_do_not_come_from_the_hosts_own_sources(tmp_path: Path) -> None:
    sources, configuration = prepared(
        tmp_path, 'ID=debian\nVERSION_ID="12"\n', Release("12", "bookworm", "i386")
    )

    assert "Suites: bookworm bookworm-updates\n" in sources
    assert 'APT::Architectures { "i386"; };' in configuration


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
    with pytest.raises(ImageError, match=f"{META}: Debian 13 has no such package"):
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
    assert "RINGLET_APT_SOURCES" in str(caught.value)
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


def test_without_apt_ringlet_fetches_itself(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert isinstance(private_apt(host.store), repository.Repository)
    with pytest.raises(ImageError, match="gpgv is not installed, but checking Debian"):
        fetch_kernel(store=host.store)


@pytest.mark.parametrize("name", ["", "-o", "A", "a b", "..", "a b/bookworm"])
def test_names_that_no_package_has(host: Host, name: str) -> None:
    with pytest.raises(ImageError, match="is not the name of a package"):
        fetch_kernel(name, store=host.store)


def prepared(directory: Path, os_release: str, release: Release = DEBIAN_13) -> tuple[str, str]:
    """Return the sources and the configuration that an apt makes on a host."""
    (directory / "os-release").write_text(os_release)
    root = directory / "apt"
    Apt(root, release, os_release=directory / "os-release").prepare()
    return (root / "debian.sources").read_text(), (root / "apt.conf").read_text()


@NEEDS_APT
@pytest.mark.parametrize("release", RELEASES)
def test_a_host_of_the_same_release_uses_its_own_sources(tmp_path: Path, release: Release) -> None:
    sources, configuration = prepared(
        tmp_path, f'ID=debian\nVERSION_ID="{release.number}"\n', release
    )

    assert sources == ""
    assert "Dir::Etc" not in configuration


@NEEDS_APT
@pytest.mark.parametrize("host", ["ID=debian\nVERSION_ID=12\n", "ID=ubuntu\nVERSION_ID=24.04\n"])
def test_another_host_takes_packages_from_debian(tmp_path: Path, host: str) -> None:
    sources, configuration = prepared(tmp_path, host)

    assert "http://deb.debian.org/debian\nSuites: trixie trixie-updates\n" in sources
    assert "http://deb.debian.org/debian-security\nSuites: trixie-security\n" in sources
    assert f'sourcelist "{tmp_path}/apt/debian.sources"' in configuration


@NEEDS_APT
def test_packages_of_debian_12_come_from_its_own_part_of_the_server(tmp_path: Path) -> None:
    sources, _ = prepared(tmp_path, "ID=debian\nVERSION_ID=13\n", DEBIAN_12)

    assert "Suites: bookworm bookworm-updates\n" in sources
    assert "Suites: bookworm-security\n" in sources


@NEEDS_APT
@pytest.mark.skipif(shutil.which("gpg") is None, reason="this host has no gpg")
@pytest.mark.parametrize("release", RELEASES)
def test_both_servers_lists_are_checked_with_debians_keys(tmp_path: Path, release: Release) -> None:
    # No host runs Debian 0, so the sources are Debian's own server's.
    sources, _ = prepared(tmp_path, "ID=debian\nVERSION_ID=0\n", release)
    owners = []
    for stanza in sources.split("\n\n"):
        _, _, keys = stanza.partition("Signed-By:\n")
        lines = ["" if line == " ." else line.removeprefix(" ") for line in keys.splitlines()]
        done = subprocess.run(
            ["gpg", "--homedir", tmp_path, "--with-colons", "--show-keys"],
            input="\n".join(lines), capture_output=True, text=True, check=True,
        )  # fmt: skip
        owners.append([line.split(":")[9] for line in done.stdout.splitlines() if "uid" in line])

    name = f"({release.number}/{release.codename}) <ftpmaster@debian.org>"
    assert len(owners) == 2
    assert owners[0] == owners[1]
    assert f"Debian Archive Automatic Signing Key {name}" in owners[0]
    assert f"Debian Security Archive Automatic Signing Key {name}" in owners[0]


@NEEDS_APT
def test_lists_that_debian_has_not_signed_are_refused(host: Host, tmp_path: Path) -> None:
    host.publish()
    trusting = host.repository.sources
    sources, _ = prepared(tmp_path, "ID=ubuntu\nVERSION_ID=24.04\n")
    signed_by = sources.partition("\n\n")[0].partition("Signed-By:")[2]
    strict = trusting.replace("Trusted: yes\n", f"Signed-By:{signed_by}\n")
    apt = Apt(host.store.root / "apt", sources=strict)

    with pytest.raises(ImageError, match=r"is not signed|does not have a Release file"):
        fetch_kernel(META, store=host.store, apt=apt)
    assert host.entries() == []


@NEEDS_APT
def test_the_hosts_choice_among_its_own_releases_does_not_count(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "preferences").write_text("Package: *\nPin: origin *\nPin-Priority: -1\n")
    (tmp_path / "apt.conf").write_text(
        f'APT::Default-Release "bookworm";\nDir::Etc::preferences "{tmp_path}/preferences";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    host.publish()

    assert host.kernel().vmlinuz.read_bytes() == b"bzImage"


@NEEDS_APT
def test_a_file_that_is_not_of_sources_is_named_as_the_user_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "passwd"
    wrong.write_text("root:x:0:0:root:/root:/bin/sh\n")
    monkeypatch.setenv(SOURCES, str(wrong))
    apt = Apt(tmp_path / "apt")
    apt.prepare()

    with pytest.raises(ImageError, match=f"{wrong}.*; name another file in {SOURCES}") as caught:
        apt.update()
    assert "debian.sources" not in str(caught.value)


@NEEDS_APT
def test_the_user_may_name_a_file_of_sources(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.publish()
    (tmp_path / "my.sources").write_text(host.repository.sources)
    monkeypatch.setenv(SOURCES, str(tmp_path / "my.sources"))
    kernel = fetch_kernel(META, store=host.store)

    assert kernel.vmlinuz.read_bytes() == b"bzImage"


@NEEDS_APT
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"\xff", "is not text"), (b" \n", "is empty")],
)
def test_a_file_of_sources_that_is_none(
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    message: str,
) -> None:
    path = tmp_path / "my.sources"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(SOURCES, str(path))

    with pytest.raises(ImageError, match=f"^{SOURCES}: {path}: .*{message}"):
        fetch_kernel(META, store=host.store)


@NEEDS_APT
def test_kernels_of_two_releases_are_kept_side_by_side(host: Host) -> None:
    host.publish()
    older = fetch_kernel(f"{META}/bookworm", store=host.store, apt=host.apt())
    host.publish(100, b"newer")
    newer = host.kernel(refresh=True)

    assert (older.vmlinuz.read_bytes(), newer.vmlinuz.read_bytes()) == (b"bzImage", b"newer")
    assert host.entries() == [META, META]


@pytest.mark.parametrize(
    ("text", "name", "directory"),
    [
        ("a-b", "a-b", "trixie"),
        ("a-b:amd64/bookworm", "a-b", "bookworm"),
        ("a-b:i386", "a-b", "trixie-i386"),
        ("a-b:i386/bookworm", "a-b", "bookworm-i386"),
    ],
)
def test_the_release_and_architecture_of_a_package(text: str, name: str, directory: str) -> None:
    found, release = split_release(text)

    assert (found, release.directory) == (name, directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linux-image-686-pae/bookworm", "is a kernel for i386; give linux-image-686-pae:i386/"),
        ("linux-image-686", "is a kernel for i386; give linux-image-686:i386/bookworm"),
        ("linux-image-686:i386", "Debian 13 has no kernels for i386; give linux-image-686:i386/"),
    ],
)
def test_kernels_for_i386_are_named_with_their_release(text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        split_release(text)


def test_an_architecture_that_is_not_known() -> None:
    with pytest.raises(ImageError, match=r"^'a-b:s390x/sid': give a-b:amd64 or a-b:i386$"):
        split_release("a-b:s390x/sid")


def test_a_release_that_is_not_known(host: Host) -> None:
    message = f"'{META}/sid': no such release .*; give {META}/trixie or {META}/bookworm"
    with pytest.raises(ImageError, match=message):
        fetch_kernel(f"{META}/sid", store=host.store)


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
def test_the_hosts_release_is_known_by_os_release(
    tmp_path: Path, text: str, expected: bool
) -> None:
    (tmp_path / "os-release").write_text(text)

    assert runs(DEBIAN_12, tmp_path / "os-release") is expected


def test_a_host_without_os_release_is_another(tmp_path: Path) -> None:
    assert not runs(DEBIAN_12, tmp_path / "os-release")


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
