"""Builds the image of Debian, and the disk with a kernel's modules that guests with a disk have.

An image's packages are those of Debian 12.  The kernel is not in the image: a guest runs the cached
kernel, whose modules come on a disk of their own, so that each changes without the other.
"""

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.config import format_size
from ringlet.errors import ImageError, RingletError
from ringlet.images.busybox import find_busybox
from ringlet.images.catalog import DEBIAN, Image, Images, Settings
from ringlet.images.debian import CachedKernel, fetch_kernel, fetch_packages
from ringlet.images.initramfs import Command, Root, make_initramfs
from ringlet.images.modules import Modules
from ringlet.images.release import DEBIAN_12, Release
from ringlet.images.rootfs import PACKAGES, SETUP, recipe, write_root
from ringlet.images.store import Store

NAME: Final = "debian"
VARIANTS: Final = {"": (), "python3": ("python3",)}
"""The packages that a variant of Debian has in addition; "debian:python3" is the second's name."""
SETUP_MEMORY: Final = 512 << 20
_ARCHIVE: Final = "boot.cpio"
_DISK: Final = "modules.raw"
_LAYOUT: Final = 4
"""Changes with what the archive has (`ringlet.images.modules.BOOT`)."""
_MODULES_ROOM: Final = 120 << 20
_UNPACKED: Final = 5
_FAILED: Final = "renewal-failed"
"""The file beside an image whose time is that of the last attempt to build it anew."""
_AGAIN_S: Final = 86400
# A build that is cut off is thrown away, so the guest need not wait for the host's disk.
_UNSAFE: Final = "rw,noatime,nobarrier"
Update = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KernelModules:
    """A kernel's modules: those of an initial RAM disk, and a disk with all of them."""

    archive: Path
    disk: Path


@dataclass(frozen=True, slots=True)
class Task:
    """A guest to run: its kernel, initial RAM disk, disks in order, and memory in bytes.

    Its command's streams and its end are those of `ringlet.images.channel`.
    """

    kernel: CachedKernel
    initrd: bytes
    disks: tuple[Path, ...]
    memory: int = SETUP_MEMORY


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a task: the command's status, or None if it had none, and its output's end."""

    status: int | None
    output: str = ""


Runner = Callable[[Task, Update], Outcome]
"""Runs a task; the caller gives it, because images know no machine."""


def fetch_modules(kernel: CachedKernel, update: Update, *, store: Store) -> KernelModules:
    """Return the modules of `kernel`, from the cache or else made from its package.

    Raises ImageError.
    """
    name = f"{kernel.release}_{kernel.version}_{_LAYOUT}".replace("/", "_")
    if (found := _cached_modules(store, name)) is not None:
        return found
    with store.locked(lambda: update("waiting for another ringlet process that is fetching")):
        if (found := _cached_modules(store, name)) is not None:
            return found
        update(f"reading the modules of Linux {kernel.release}")
        with store.adding("modules", name, _MODULES_ROOM) as (directory, facts):
            modules = Modules(kernel.package, kernel.release)
            (directory / _ARCHIVE).write_bytes(modules.boot_archive())
            modules.write_image(directory / _DISK)
            facts["release"] = kernel.release
    found = _cached_modules(store, name)
    if found is None:
        raise ImageError(f"{store.root}: the disk returns wrong data; check the disk")
    return found


def build_debian(
    images: Images,
    run: Runner,
    update: Update,
    *,
    variant: str = "",
    release: Release = DEBIAN_12,
    again: bool = True,
) -> Image:
    """Build Debian's image, which replaces the one that is there, and return it.

    Unless `again`, an image that another process makes meanwhile is returned.  `run` runs the guest
    that sets the unpacked packages up.  Raises ImageError.
    """
    if variant not in VARIANTS:
        known = ", ".join(f"debian:{name}" for name in VARIANTS if name)
        raise ImageError(f"debian:{variant}: there is no such variant; give debian or {known}")
    kernel = fetch_kernel(progress=update, store=images.store)
    modules = fetch_modules(kernel, update, store=images.store)
    busybox = find_busybox(update, store=images.store)
    name = f"{NAME}:{variant}" if variant else NAME

    def waits() -> None:
        update("waiting for another ringlet process that makes an image")

    with contextlib.suppress(_MadeMeanwhile), images.adding(name, DEBIAN, waits) as draft:
        wanted = _recipe(variant, release)
        found = None if again else _built(images, name)
        if found is not None and found.digest == wanted:
            raise _MadeMeanwhile
        draft.source, draft.digest = str(release), wanted
        packages = draft.directory / "packages"
        packages.mkdir()
        debs, versions = fetch_packages(
            [*PACKAGES, *VARIANTS[variant]], packages, update, store=images.store, release=release,
            room=lambda size: _UNPACKED * size,
        )  # fmt: skip
        write_root(draft.disk, debs, release, update)
        shutil.rmtree(packages)
        task = Command((f"/{SETUP}".encode(),))
        initrd = modules.archive.read_bytes() + make_initramfs(
            busybox, task, root=Root(options=_UNSAFE)
        )
        update(f"setting up {len(versions)} packages in a guest")
        outcome = run(Task(kernel, initrd, (draft.disk,)), update)
        if outcome.status != 0:
            ended = "ended early" if outcome.status is None else f"failed: {outcome.status}"
            last = outcome.output.strip().rpartition("\n")[2][:200]
            raise ImageError(f"the guest that sets Debian up {ended}{f'; {last}' if last else ''}")
        draft.settings = Settings(command=("/bin/bash",), directory="/root", boots=True)
    image = images.find(name)
    if image is None:
        raise ImageError(f"{images.root}: the disk returns wrong data; check the disk")
    update(f"{name} has {format_size(image.size)}")
    return image


def find_debian(images: Images, run: Runner, update: Update, variant: str = "") -> Image:
    """Return Debian's image, which is built if there is none.  Raises ImageError.

    One that another version of Ringlet has built is replaced, if that succeeds.  An image that
    others made is not Debian's, whatever its name.
    """
    name = f"{NAME}:{variant}" if variant else NAME
    found = _built(images, name)
    if found is not None and found.digest == _recipe(variant):
        return found
    if found is None:
        return build_debian(images, run, update, variant=variant, again=False)
    failed = found.disk.parent / _FAILED
    with contextlib.suppress(OSError):
        if time.time() - failed.stat().st_mtime < _AGAIN_S:
            return found
    update(f"the image {name} is of another version of Ringlet; it is built anew")
    try:
        return build_debian(images, run, update, variant=variant, again=False)
    except RingletError as error:
        update(f"{error}; the image of the other version is used, and this is tried again tomorrow")
        with contextlib.suppress(OSError):  # another process has removed it
            failed.touch()
        return found


def _recipe(variant: str, release: Release = DEBIAN_12) -> str:
    return recipe([*PACKAGES, *VARIANTS.get(variant, ())], release)


class _MadeMeanwhile(Exception):  # noqa: N818 - it ends a draft, and is no error
    """Another process has made the image while this one waited for it."""


def _built(images: Images, name: str) -> Image | None:
    found = images.find(name)
    return found if found is not None and found.kind == DEBIAN else None


def _cached_modules(store: Store, name: str) -> KernelModules | None:
    entry = store.find("modules", name)
    if entry is None:
        return None
    archive, disk = entry.file(_ARCHIVE), entry.file(_DISK)
    return KernelModules(archive, disk) if archive is not None and disk is not None else None
