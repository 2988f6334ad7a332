"""Makes the images of `ringlet bench programs`: a Debian tree and an initial RAM disk of it.

    CACHE/debian/GROUP-KEY/
        tree/            the packages' files; native programs run in it, as their root directory
        tree.cpio        the same files
        manifest.json    the packages' versions, written last
    CACHE/debian/bench-KEY/    the driver, the rows' scripts and their files: /bench in both

Packages are unpacked, not configured: no program of theirs runs as root.  What their scripts would
make and rows need, `_configure` makes.  All times are 0 in both, so that Python's and Java's caches
of compiled code are valid in both.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.bench.debian.rows import Group
from ringlet.bench.toolchain import DRIVER, SOURCES, build_driver
from ringlet.errors import ImageError
from ringlet.images.apt import Apt
from ringlet.images.cpio import CpioWriter
from ringlet.images.debian import Progress, fetch_packages, silent
from ringlet.images.release import DEBIAN_12
from ringlet.images.store import Store, explain
from ringlet.images.tools import output, started

FORMAT: Final = 1
"""This must grow when the same packages give another tree."""
# Unpacked files and the archive of them are each about four times as large as packages.
_ROOM: Final = 10
_TIMEOUT_S: Final = 900
_MANIFEST: Final = "manifest.json"
_UNFINISHED: Final = ".unfinished-"

# Debian 12 expects that these are links.
_MERGED: Final = ("bin", "sbin", "lib", "lib64")
_DIRECTORIES: Final = (
    "bench", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var/tmp",
)  # fmt: skip
_LEFT_OUT: Final = (
    "./usr/share/doc", "./usr/share/man", "./usr/share/info", "./usr/share/locale",
    "./usr/share/lintian", "./usr/share/bug", "./usr/share/fonts", "./usr/lib/jvm/*/jmods",
    "./usr/lib/jvm/*/man", "./usr/bin/*lto-dump*",
)  # fmt: skip
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_LINKS: Final = {"usr/bin/awk": "mawk"}
_PYTHON: Final = "usr/bin/python3.11"
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
# Tests of the compiler have files that it refuses.
_NOT_PYTHON: Final = r"bad_coding|badsyntax|lib2to3/tests/data"


@dataclass(frozen=True, slots=True)
class Image:
    """A group's tree, the archive of it, and the version of each package."""

    tree: Path
    archive: Path
    versions: dict[str, str]


def make_image(
    group: Group,
    cache: Path,
    store: Store,
    progress: Progress = silent,
    apt: Apt | None = None,
) -> Image:
    """Return the image of `group`, from the cache or else from Debian.  Raises ImageError."""
    left_out = (*_LEFT_OUT, *group.left_out)
    digest = hashlib.sha256(repr((FORMAT, group.packages, left_out, _FILES)).encode())
    place = cache / "debian" / f"{group.name}-{digest.hexdigest()[:16]}"
    if (image := _cached(place)) is not None:
        return image
    waits = functools.partial(progress, "waiting for another ringlet process that is fetching")
    with store.locked(waits):
        if (image := _cached(place)) is not None:
            return image
        try:
            _make(group, place, store, progress, apt)
        except OSError as error:
            raise explain(error, cache) from error
    image = _cached(place)
    assert image is not None
    return image


def bench_directory(cache: Path) -> Path:
    """Return the directory for /bench: the driver, the scripts and files of all rows."""
    driver = build_driver(cache)
    here = Path(__file__).parent
    sources = {DRIVER: driver}
    for folder in ("rows", "files"):
        sources |= {f"{folder}/{path.name}": path for path in (here / folder).iterdir()}
    for path in SOURCES.glob("*/*.[ch]"):
        sources[f"files/project/{path.parent.name}/{path.name}"] = path
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + sources[name].read_bytes() + b"\0")
    place = cache / "debian" / f"bench-{digest.hexdigest()[:16]}"
    if not place.exists():
        with _made(place) as made:
            for name, source in sources.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, made / name)
            (made / DRIVER).chmod(0o755)
    return place


@contextlib.contextmanager
def initial_disk(image: Image, bench: Path, modules: bytes = b"") -> Iterator[Path]:
    """Give the path of an initial RAM disk with `image` and /bench, whose init is the driver.

    `modules` is an archive of the kernel's modules that the rows load.

    The file has no name in the file system and vanishes with this process.  Raises ImageError.
    """
    with contextlib.ExitStack() as opened:
        try:
            disk = opened.enter_context(tempfile.TemporaryFile(dir=image.archive.parent))
            with image.archive.open("rb") as archive:
                shutil.copyfileobj(archive, disk, 1 << 20)
            writer = CpioWriter(disk)
            _add(writer, bench, "bench/")
            writer.symlink("init", f"bench/{DRIVER}")
            writer.end()
            disk.write(modules)
            disk.flush()
        except OSError as error:
            raise explain(error, image.archive.parent) from error
        yield Path(f"/proc/{os.getpid()}/fd/{disk.fileno()}")


def _cached(place: Path) -> Image | None:
    try:
        manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Image(place / "tree", place / "tree.cpio", manifest["packages"])


def _make(group: Group, place: Path, store: Store, progress: Progress, apt: Apt | None) -> None:
    shutil.rmtree(place, ignore_errors=True)  # one without a manifest that can be read
    with _made(place) as made:
        debs, tree = made / "debs", made / "tree"
        debs.mkdir()
        files, versions = fetch_packages(
            group.packages, debs, progress, store=store, release=DEBIAN_12, apt=apt,
            room=lambda size: _ROOM * size,
        )
        progress(f"unpacking {len(files)} packages for {group.name}")
        for name in _MERGED:
            (tree / "usr" / name).mkdir(parents=True)
            (tree / name).symlink_to(f"usr/{name}")
        for deb in files:
            _unpack(deb, tree, (*_LEFT_OUT, *group.left_out))
        shutil.rmtree(debs)
        _configure(tree)
        with (made / "tree.cpio").open("wb") as file:
            writer = CpioWriter(file)
            _add(writer, tree)
            # The kernel opens /dev/console for init before init can mount anything.
            writer.character_device("dev/console", 5, 1)
            writer.end()
        text = json.dumps({"format": FORMAT, "packages": versions}, indent=2)
        (made / _MANIFEST).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def _made(place: Path) -> Iterator[Path]:
    """Give a directory to fill; if the body succeeds, it becomes `place`.

    If another process has made the same meanwhile, it may use it already, and it stays.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=place.parent) as name:
        made = Path(name) / "made"
        made.mkdir()
        yield made
        if not place.exists():
            made.rename(place)


def _unpack(deb: Path, tree: Path, patterns: Iterable[str]) -> None:
    left_out = [f"--exclude={pattern}" for pattern in patterns]
    # dpkg-deb's own unpacking would replace the links in the root directory by directories.
    tar: list[str | Path] = [
        "tar", "-x", "-p", "--no-same-owner", "--keep-directory-symlink", *left_out, "-C", tree,
    ]  # fmt: skip
    with started(["dpkg-deb", "--fsys-tarfile", deb]) as process:
        done = subprocess.run(tar, stdin=process.stdout, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise ImageError(f"{deb.name}: cannot unpack this package: {reason[0]}")


def _configure(tree: Path) -> None:
    """Do what the scripts of the packages would do, as far as rows need it."""
    _keep_links_inside(tree)
    for name in _DIRECTORIES:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (tree / name).write_text(text, encoding="utf-8")
    for name, target in _LINKS.items():
        if (tree / name).parent.joinpath(target).exists():
            (tree / name).symlink_to(target)
    ldconfig = tree / "usr/sbin/ldconfig"
    if ldconfig.exists():
        _run([ldconfig, "-r", tree])
    _forget_times(tree)
    if (tree / _PYTHON).exists():
        _compile_python(tree)
        _forget_times(tree)


def _keep_links_inside(tree: Path) -> None:
    """Make absolute links relative, so that on the host too they lead to files of the tree."""
    for directory, folders, names in os.walk(tree):
        for path in (Path(directory, name) for name in (*folders, *names)):
            if path.is_symlink() and path.readlink().is_absolute():
                target = tree / str(path.readlink()).lstrip("/")
                path.unlink()
                path.symlink_to(os.path.relpath(target, path.parent))


def on_host(tree: Path, program: str) -> list[str]:
    """Return how the host runs a program of `tree`, with the tree's libraries."""
    libraries = tree / _LIBRARIES
    loader = str(libraries / "ld-linux-x86-64.so.2")
    return [loader, "--library-path", str(libraries), str(tree / program)]


def _compile_python(tree: Path) -> None:
    """Compile Python's modules, so that no start of Python does it."""
    options = ["-q", "-x", _NOT_PYTHON, "-s", str(tree), "-p", "/"]
    modules = [str(path) for path in (tree / "usr/lib").glob("python3*") if path.is_dir()]
    environment = {**os.environ, "PYTHONHOME": str(tree / "usr")}
    python = [*on_host(tree, _PYTHON), "-s", "-B", "-m", "compileall", *options, *modules]
    # Some files in the tests have errors on purpose.
    output(python, _TIMEOUT_S, environment=environment)
    if not any((tree / "usr/lib/python3.11/json/__pycache__").glob("*.pyc")):
        raise ImageError(f"{tree / _PYTHON}: it cannot compile its modules on this host")


def _forget_times(tree: Path) -> None:
    for directory, _, names in os.walk(tree, topdown=False):
        for name in names:
            os.utime(Path(directory, name), (0, 0), follow_symlinks=False)
        os.utime(directory, (0, 0))


def _add(writer: CpioWriter, root: Path, prefix: str = "") -> None:
    """Add everything below `root`; owners become root."""
    if prefix:
        writer.directory(prefix.rstrip("/"))
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted((*folders, *names)):
            path = Path(directory, name)
            status = path.lstat()
            member = prefix + str(path.relative_to(root))
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                writer.symlink(member, str(path.readlink()))
            elif stat.S_ISDIR(status.st_mode):
                writer.directory(member, mode)
            else:
                writer.file(member, path.read_bytes(), mode)


def _run(command: list[str | Path]) -> None:
    done = output(command, _TIMEOUT_S)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise ImageError(f"{command[0]}: failed: {reason[0]}")
