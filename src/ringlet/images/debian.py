"""Debian's kernels and busybox, fetched once and then taken from the cache.

Cached files are used without the network; `refresh` looks for a newer version.
"""

import contextlib
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from ringlet.config import format_size
from ringlet.errors import ImageError
from ringlet.images.apt import OTHERWISE, Apt, is_installed
from ringlet.images.compression import DAMAGED
from ringlet.images.deb import open_data
from ringlet.images.release import AMD64, DEFAULT, I386, Release, split_release
from ringlet.images.repository import Repository
from ringlet.images.store import Entry, Store, default_root, free_space

CLOUD_KERNEL: Final = "linux-image-cloud-amd64"
PAE_KERNEL: Final = "linux-image-686-pae:i386/bookworm"
BUSYBOX: Final = "busybox-static"
T = TypeVar("T")
Progress = Callable[[str], None]
"""Shows the user a line with the current step."""

# apt-get waits forever on a full disk, so the free space is checked first.
_KERNEL_ROOM: Final = 180 << 20
_TOOL_ROOM: Final = 60 << 20
_TOOLS: Final = "tools"
_VMLINUZ: Final = "vmlinuz"
_PACKAGE_FILE: Final = "package.deb"
_TOOL: Final = "busybox"
_REAL_KERNEL: Final = re.compile(r"\blinux-image-\d+\.[\w.+~-]*")


@dataclass(frozen=True, slots=True)
class CachedKernel:
    """A kernel in the cache: the bzImage, and the package it came in, which has its modules.

    `release` is the output of `uname -r` under the kernel, `version` is Debian's version.
    `architecture` is Debian's name of the processors that it is for.
    """

    vmlinuz: Path
    package: Path
    release: str
    version: str
    architecture: str = AMD64


def silent(line: str) -> None:
    """Drop `line`: the progress function that shows nothing."""


def fetch_kernel(
    package: str = CLOUD_KERNEL,
    progress: Progress = silent,
    *,
    store: Store | None = None,
    apt: Apt | Repository | None = None,
    refresh: bool = False,
) -> CachedKernel:
    """Return the kernel of the Debian package `package`, from the cache or else from Debian.

    The package may depend on the package of a kernel, as linux-image-cloud-amd64 does.  It is one
    of Debian 13, or, as in "linux-image-cloud-amd64/bookworm", of the release that is named; with
    ":i386", as in `PAE_KERNEL`, it is one for that architecture.
    Raises ImageError.
    """
    package, release = split_release(package)
    source = _Source(store, apt, progress, release)
    kind = kernels_of(release)
    if not refresh and (kernel := _cached_kernel(source.store, kind, package)) is not None:
        return kernel
    with source.store.locked(source.waits):
        # Another process may have fetched it while this one waited for the lock.
        if not refresh and (kernel := _cached_kernel(source.store, kind, package)) is not None:
            return kernel
        with source.store.adding(kind, package, _KERNEL_ROOM) as (directory, facts):
            fetched = source.fetch(package, directory, newest=refresh)
            try:
                extract(fetched.deb, re.compile(r"\./boot/vmlinuz-.*"), directory / _VMLINUZ)
            except MissingFileError:
                raise ImageError(
                    f"{fetched.package}: this package has no kernel; "
                    "give a package such as linux-image-amd64"
                ) from None
            fetched.deb.rename(directory / _PACKAGE_FILE)
            facts["package"], facts["version"] = fetched.package, fetched.version
            facts["release"] = fetched.package.removeprefix("linux-image-")
    kernel = _cached_kernel(source.store, kind, package)
    if kernel is None:
        raise ImageError(f"{source.store.root}: the disk returns wrong data; check the disk")
    return kernel


def kernel_of(vmlinuz: Path, store: Store | None = None) -> CachedKernel | None:
    """Return the kernel of the cache whose file `vmlinuz` is, or None."""
    store = store or Store(default_root())
    file = vmlinuz.resolve()
    entry = file.parent
    if entry.parent.parent.parent != store.root.resolve():
        return None
    kind = f"{entry.parent.parent.name}/{entry.parent.name}"
    return _cached_kernel(store, kind, entry.name) if file.name == _VMLINUZ else None


def fetch_busybox(
    progress: Progress = silent,
    *,
    store: Store | None = None,
    apt: Apt | Repository | None = None,
    release: Release = DEFAULT,
) -> Path:
    """Return a statically linked busybox, from the cache or else from Debian.

    Raises ImageError.
    """
    source = _Source(store, apt, progress, release)
    kind = f"{_TOOLS}/{release.directory}"
    if (tool := _cached_tool(source.store, kind)) is not None:
        return tool
    with source.store.locked(source.waits):
        if (tool := _cached_tool(source.store, kind)) is not None:
            return tool
        with source.store.adding(kind, BUSYBOX, _TOOL_ROOM) as (directory, facts):
            fetched = source.fetch(BUSYBOX, directory)
            extract(fetched.deb, re.compile(r"\./(usr/)?bin/busybox"), directory / _TOOL)
            (directory / _TOOL).chmod(0o755)
            fetched.deb.unlink()
            facts["package"], facts["version"] = fetched.package, fetched.version
    tool = _cached_tool(source.store, kind)
    if tool is None:
        raise ImageError(f"{source.store.root}: the disk returns wrong data; check the disk")
    return tool


def fetch_packages(
    packages: Sequence[str],
    directory: Path,
    progress: Progress = silent,
    *,
    store: Store,
    release: Release = DEFAULT,
    apt: Apt | Repository | None = None,
    room: Callable[[int], int] = lambda size: size,
) -> tuple[list[Path], dict[str, str]]:
    """Fetch `packages` and all that they depend on to `directory`, which is empty.

    Returns the files and the version of each package.  The caller must hold the store's lock.
    `room` returns the free bytes that packages of a size need.  Raises ImageError.
    """
    apt = apt or private_apt(store, release, otherwise="")
    source = _Source(store, apt, progress, release)
    return source.with_lists(lambda: source.fetch_all(packages, directory, room))


def fetch_package(
    package: str,
    release: Release,
    *,
    store: Store | None = None,
    apt: Apt | Repository | None = None,
) -> Path:
    """Return the file of `package`, without what it depends on, from the cache or from Debian.

    Raises ImageError.
    """
    source = _Source(store, apt, silent, release)
    kind = f"packages/{release.directory}"

    def cached() -> Path | None:
        entry = source.store.find(kind, package)
        return entry.file(_PACKAGE_FILE) if entry is not None else None

    if (deb := cached()) is not None:
        return deb
    with source.store.locked():
        if (deb := cached()) is not None:
            return deb
        with source.store.adding(kind, package, _KERNEL_ROOM) as (directory, facts):
            fetched = source.fetch(package, directory)
            fetched.deb.rename(directory / _PACKAGE_FILE)
            facts["package"], facts["version"] = fetched.package, fetched.version
    deb = cached()
    if deb is None:
        raise ImageError(f"{source.store.root}: the disk returns wrong data; check the disk")
    return deb


def private_apt(
    store: Store, release: Release = DEFAULT, otherwise: str = OTHERWISE
) -> Apt | Repository:
    """Return what fetches packages of `release` for `store`: apt, where the host has it."""
    if is_installed():
        return Apt(store.root / "apt" / release.directory, release, otherwise=otherwise)
    return Repository(store.root / "lists" / release.directory, release, otherwise=otherwise)


class MissingFileError(ImageError):
    """A package does not have the file that is wanted of it."""


def extract(deb: Path, wanted: re.Pattern[str], target: Path) -> None:
    """Write the first regular file of `deb` whose name matches `wanted` to `target`.

    Raises ImageError, and OSError if the target cannot be written.
    """
    try:
        with open_data(deb) as data, tarfile.open(fileobj=data, mode="r|") as archive:
            for member in archive:
                if member.isfile() and wanted.fullmatch(member.name):
                    source = archive.extractfile(member)
                    assert source is not None
                    with target.open("wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                    return
    except (tarfile.TarError, *DAMAGED) as error:
        raise ImageError(f"{deb.name}: cannot unpack this package: {error}") from error
    raise MissingFileError(f"{deb.name}: this package has no file {wanted.pattern}")


@dataclass(frozen=True, slots=True)
class _Fetched:
    package: str
    version: str
    deb: Path


class _Source:
    """The store, and the apt that fills it, which is prepared at its first use."""

    def __init__(
        self,
        store: Store | None,
        apt: Apt | Repository | None,
        progress: Progress,
        release: Release,
    ) -> None:
        self.store = store or Store(default_root())
        self._apt = apt or private_apt(self.store, release)
        self._progress = progress

    def waits(self) -> None:
        """Show the user that this process waits for another one."""
        self._progress("waiting for another ringlet process that is fetching")

    def fetch(self, package: str, directory: Path, *, newest: bool = False) -> _Fetched:
        """Fetch the package that has the files of `package` to `directory`, which is empty.

        With `newest`, the package lists are fetched again even if they are less than a day old.
        """
        return self.with_lists(lambda: self._download(package, directory), newest=newest)

    def with_lists(self, action: Callable[[], T], *, newest: bool = False) -> T:
        """Return what `action` returns; if it fails with old package lists, repeat it with new."""
        self._apt.prepare()
        if not newest and self._apt.lists_are_new():
            # Lists that are a few hours old may name a version that is gone by now.
            with contextlib.suppress(ImageError):
                return action()
        self._progress("fetching Debian's package lists")
        try:
            self._apt.update()
        except ImageError as trouble:
            # The failure may concern another of the host's sources.
            try:
                return action()
            except ImageError:
                raise trouble from None
        return action()

    def fetch_all(
        self, packages: Sequence[str], directory: Path, room: Callable[[int], int]
    ) -> tuple[list[Path], dict[str, str]]:
        """Fetch `packages` and all that they depend on; return the files and the versions."""
        found = self._apt.closure(packages)
        size = sum(version.size for version in found.values())
        needed = room(size)
        if free_space(directory) < needed:
            raise ImageError(
                f"{self.store.root}: too little room; free {format_size(needed)} there, or set "
                "XDG_CACHE_HOME to another directory"
            )
        for left in directory.iterdir():  # of a try with older lists
            left.unlink()
        self._progress(f"fetching {len(found)} packages from Debian, {format_size(size)}")
        debs = self._apt.download_all(found, directory)
        return debs, {name: version.name for name, version in found.items()}

    def _download(self, package: str, directory: Path) -> _Fetched:
        fields = self._apt.show(package)
        real = _REAL_KERNEL.search(fields.get("Depends", ""))
        if real is not None and not _REAL_KERNEL.fullmatch(package):
            package = real[0]
            fields = self._apt.show(package)
        if not fields:
            raise ImageError(f"{package}: {self._apt.release} has no such package")
        self._progress(f"fetching {package} from Debian")
        deb = self._apt.download(package, directory)
        return _Fetched(package, fields.get("Version", ""), deb)


def kernels_of(release: Release = DEFAULT) -> str:
    """Return the directory of the store that has the kernels of `release`, by package."""
    return f"kernels/{release.directory}"


def _cached_kernel(store: Store, kind: str, package: str) -> CachedKernel | None:
    entry = store.find(kind, package)
    if entry is None:
        return None
    vmlinuz, deb = entry.file(_VMLINUZ), entry.file(_PACKAGE_FILE)
    if vmlinuz is None or deb is None:
        return None
    architecture = I386 if kind.endswith(f"-{I386}") else AMD64
    release, version = _fact(entry, "release"), _fact(entry, "version")
    return CachedKernel(vmlinuz, deb, release, version, architecture)


def _cached_tool(store: Store, kind: str) -> Path | None:
    entry = store.find(kind, BUSYBOX)
    return entry.file(_TOOL) if entry is not None else None


def _fact(entry: Entry, name: str) -> str:
    return str(entry.facts.get(name, ""))
