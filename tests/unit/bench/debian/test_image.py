"""Images made from packages of a repository in a directory."""

import os
import shutil
from pathlib import Path

import pytest
from tests.unit.images.cpio_reader import Member, members
from tests.unit.images.packages import NEEDS_APT, Repository, names

from ringlet.bench.debian import image
from ringlet.bench.debian.image import Image, bench_directory, initial_disk, make_image
from ringlet.bench.debian.rows import IO_ROWS, ROWS, Group
from ringlet.errors import ImageError
from ringlet.images.apt import Apt
from ringlet.images.cpio import CpioWriter
from ringlet.images.store import Store

GROUP = Group("small", ("tool",))


class Host:
    """A repository with a package that depends on another, and a cache."""

    def __init__(self, directory: Path) -> None:
        self.repository = Repository(directory / "debian")
        self.repository.add("tool", {
            "bin/tool": b"tool", "usr/bin/mawk": b"mawk", "usr/share/doc/tool/copyright": b"c",
        }, depends="library")  # fmt: skip
        self.repository.add("library", {"lib/l.so": b"library", "usr/share/l": b"data"})
        self.cache = directory / "cache"
        self.lines: list[str] = []

    def image(self, group: Group = GROUP) -> Image:
        store = Store(self.cache)
        apt = Apt(store.root / "apt", sources=self.repository.sources)
        return make_image(group, self.cache, store, self.lines.append, apt)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def trailing(archive: bytes) -> tuple[dict[str, Member], dict[str, Member]]:
    """Read two archives that follow one another."""
    end = archive.index(b"TRAILER!!!\0")
    end = (end + 11 + 3) & ~3
    return members(archive[:end]), members(archive[end:])


@NEEDS_APT
def test_a_tree_has_the_files_of_the_packages_and_of_their_dependencies(host: Host) -> None:
    made = host.image()

    assert (made.tree / "bin/tool").read_bytes() == b"tool"
    assert (made.tree / "usr/lib/l.so").read_bytes() == b"library"
    assert made.versions == {"tool": "1.0-1", "library": "1.0-1"}


@NEEDS_APT
def test_the_root_directorys_links_remain_links(host: Host) -> None:
    tree = host.image().tree

    assert (tree / "bin").readlink() == Path("usr/bin")
    assert names(tree / "usr/bin") == ["awk", "mawk", "tool"]


@NEEDS_APT
def test_documents_are_left_out(host: Host) -> None:
    assert names(host.image().tree / "usr/share") == ["l"]


@NEEDS_APT
def test_the_archive_has_the_trees_files_with_their_modes(host: Host) -> None:
    made = host.image()
    (made.tree / "bin/tool").chmod(0o4750)
    found = members(made.archive.read_bytes())

    assert found["usr/bin/tool"].content == b"tool"
    assert found["bin"].content == b"usr/bin"
    assert found["dev/console"].device == (5, 1)
    assert {member.owners for member in found.values()} == {(0, 0)}
    assert found.keys() >= {"bench", "proc", "sys", "tmp", "etc/passwd"}


@NEEDS_APT
def test_times_are_the_same_in_the_tree_and_in_the_archive(host: Host) -> None:
    made = host.image()

    times = {path.lstat().st_mtime for path in made.tree.rglob("*") if path.is_file()}
    assert times == {0}
    assert {member.time for member in members(made.archive.read_bytes()).values()} == {0}


@NEEDS_APT
def test_links_do_not_lead_out_of_the_tree(tmp_path: Path, host: Host) -> None:
    tree = tmp_path / "tree"
    (tree / "etc/alternatives").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "etc/alternatives/awk").symlink_to("/usr/bin/mawk")
    (tree / "usr/bin/awk").symlink_to("/etc/alternatives/awk")
    (tree / "usr/bin/mawk").write_bytes(b"mawk")

    image._keep_links_inside(tree)

    assert (tree / "usr/bin/awk").readlink() == Path("../../etc/alternatives/awk")
    assert (tree / "usr/bin/awk").read_bytes() == b"mawk"


@NEEDS_APT
def test_a_cached_image_needs_no_apt(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    first = host.image()
    shutil.rmtree(host.repository.directory)
    monkeypatch.setenv("PATH", "/nonexistent")

    assert host.image() == first


@NEEDS_APT
def test_an_image_whose_manifest_is_damaged_is_made_again(host: Host) -> None:
    first = host.image()
    (first.tree / "bin/tool").unlink()
    first.tree.with_name("manifest.json").write_text("{")

    assert (host.image().tree / "bin/tool").read_bytes() == b"tool"


@NEEDS_APT
def test_other_packages_make_another_image(host: Host) -> None:
    assert host.image(Group("small", ("library",))).tree != host.image().tree


@NEEDS_APT
def test_a_failure_leaves_nothing_behind(host: Host) -> None:
    with pytest.raises(ImageError, match="Unable to locate package absent"):
        host.image(Group("small", ("absent",)))

    assert names(host.cache / "debian") == []


@NEEDS_APT
def test_a_damaged_package_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object, **__: object) -> tuple[list[Path], dict[str, str]]:
        path = host.cache / "bad.deb"
        path.write_bytes(b"no package")
        return [path], {}

    monkeypatch.setattr(image, "fetch_packages", damaged)

    with pytest.raises(ImageError, match=r"bad\.deb: cannot unpack this package"):
        host.image()


@NEEDS_APT
def test_a_full_disk_is_explained(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(image, "_configure", full)

    with pytest.raises(ImageError, match=r"No space left on device; free .* there"):
        host.image()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this host")
def test_the_bench_directory_has_the_driver_the_rows_and_a_project(tmp_path: Path) -> None:
    bench = bench_directory(tmp_path)

    assert os.access(bench / "driver", os.X_OK)
    rows = {row.name for row in (*ROWS, *IO_ROWS)}
    assert {path.stem for path in (bench / "rows").iterdir()} == rows
    assert (bench / "files/project/cpu/fib.c").exists()
    assert bench_directory(tmp_path) == bench


def test_a_disk_is_the_archive_followed_by_the_bench_directory(tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    (bench / "rows").mkdir(parents=True)
    (bench / "rows/perl.sh").write_text("run() { :; }\n")
    archive = tmp_path / "tree.cpio"
    with archive.open("wb") as file:
        writer = CpioWriter(file)
        writer.directory("bench")
        writer.end()

    with initial_disk(Image(tmp_path, archive, {}), bench) as disk:
        tree, rest = trailing(disk.read_bytes())

    assert list(tree) == ["bench"]
    assert rest["bench/rows/perl.sh"].content == b"run() { :; }\n"
    assert rest["init"].content == b"bench/driver"
    assert not disk.exists()


def test_modules_follow_on_a_disk(tmp_path: Path) -> None:
    (tmp_path / "tree.cpio").touch()
    (tmp_path / "bench").mkdir()

    with initial_disk(Image(tmp_path, tmp_path / "tree.cpio", {}), tmp_path, b"modules") as disk:
        content = disk.read_bytes()

    assert content.endswith(b"modules")
    assert content.index(b"TRAILER!!!") < content.index(b"modules", len(content) - 7)


def test_a_disk_that_does_not_fit_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    (tmp_path / "tree.cpio").touch()
    monkeypatch.setattr(shutil, "copyfileobj", full)
    disk = initial_disk(Image(tmp_path, tmp_path / "tree.cpio", {}), tmp_path)

    with pytest.raises(ImageError, match=r"No space left on device; free .* there"), disk:
        pass
