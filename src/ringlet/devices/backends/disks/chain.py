"""Finds out what an image is and which images are below it, without trusting it."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import qcow2
from ringlet.devices.backends.disks.image_file import explain, open_file
from ringlet.disk_spec import Below, Format
from ringlet.errors import DiskError

DEEPEST: Final = 64
"""The most images on top of each other."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image: its format, the size of its disk in bytes, and the image below it."""

    path: Path
    format: Format
    size: int
    backing: "ImageInfo | None" = None

    def chain(self) -> Sequence["ImageInfo"]:
        """Return the image and all those below it."""
        images = [self]
        while (below := images[-1].backing) is not None:
            images.append(below)
        return images


@dataclass(frozen=True, slots=True)
class OpenImage:
    """An image and those below it, with a descriptor of each, so that no name is followed again."""

    info: ImageInfo
    fds: Sequence[int]


def describe_image(
    path: Path, layout: Format | None = None, below: Below = Below.BESIDE
) -> ImageInfo:
    """Return what the image `path` is.  Raises DiskError.

    `layout` is the format that the user said; without it the first bytes decide.  A guest that
    can write a raw image chooses these bytes, and whoever made an image chose them.  So `below`
    says which images it may stand on.
    """
    with opened_image(path, layout, below) as image:
        return image.info


@contextlib.contextmanager
def opened_image(
    path: Path, layout: Format | None = None, below: Below = Below.BESIDE
) -> Iterator[OpenImage]:
    """Give what `describe_image` returns, with all the files, which are open meanwhile.

    Raises DiskError.
    """
    fds: list[int] = []
    try:
        yield OpenImage(_open(Path(path), layout, below, fds), fds)
    finally:
        for fd in fds:
            os.close(fd)


def _open(path: Path, layout: Format | None, allowed: Below, fds: list[int]) -> ImageInfo:
    depth = len(fds)
    if depth >= DEEPEST:
        raise DiskError(f"disk {path}: more than {DEEPEST} images are on top of each other")
    try:
        # A link, or a device's file, would lead out of the directory.
        fds.append(open_file(path, read_only=True, plain=depth > 0 and allowed is not Below.ANY))
        head = None if layout is Format.RAW else qcow2.read_head(path, fds[-1])
        end = os.lseek(fds[-1], 0, os.SEEK_END)
    except OSError as error:
        if depth:
            what = f"disk {path}: {error.strerror}; this is the backing file of another image"
            raise DiskError(f"{what}, which needs it") from error
        raise explain(error, path, read_only=True) from error
    if head is None:
        if layout is Format.QCOW2:
            raise DiskError(f"disk {path}: this is not a qcow2 image")
        return ImageInfo(path, Format.RAW, -(-end // 512) * 512)
    size = -(-head.size // 512) * 512
    if head.backing is None:
        return ImageInfo(path, Format.QCOW2, size)
    below = _below(path, head, allowed)
    return ImageInfo(path, Format.QCOW2, size, _open(below, _layout(path, head), allowed, fds))


def _below(path: Path, head: qcow2.Head, allowed: Below) -> Path:
    assert head.backing is not None
    name = head.backing.removeprefix("file:")
    shown = name if name.isprintable() else ascii(name)
    if allowed is Below.NONE:
        raise DiskError(
            f"disk {path}: it shows the guest {shown}; if you trust it, make a whole image of it "
            f"with qemu-img convert -O qcow2 {path.name} whole.qcow2"
        )
    if not qcow2.is_local(name):
        raise DiskError(f"disk {path}: its backing file {shown} is not a file of this host")
    if allowed is Below.BESIDE and ("/" in name or path.suffix != ".qcow2"):
        raise DiskError(
            f"disk {path}: it shows the guest {shown}; if you trust this image, add ,format=qcow2"
        )
    return path.parent / name


def _layout(path: Path, head: qcow2.Head) -> Format | None:
    """Return the format of the backing file; None: the image does not say it."""
    if head.backing_format is None:
        return None
    try:
        return Format(head.backing_format)
    except ValueError:
        raise DiskError(
            f"disk {path}: its backing file has the format {head.backing_format[:20]!a}; "
            "convert it with qemu-img convert -O qcow2"
        ) from None
