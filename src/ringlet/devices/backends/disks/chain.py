"""Finds out what an image is and which images are below it, without trusting it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks import qcow2
from ringlet.devices.backends.disks.image_file import explain, open_file
from ringlet.disk_spec import Format
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


def describe_image(path: Path, layout: Format | None = None) -> ImageInfo:
    """Return what the image `path` is.  Raises DiskError.

    `layout` is the format that the user said; without it the first bytes decide.  A guest that
    can write a raw image chooses these bytes.  So an image whose format the user did not say may
    stand on another one only if its name ends in .qcow2 and that one is in the same directory.
    """
    path = Path(path)
    return _describe(path, layout, trusted=layout is not None, depth=0)


def _describe(path: Path, layout: Format | None, *, trusted: bool, depth: int) -> ImageInfo:
    if depth >= DEEPEST:
        raise DiskError(f"disk {path}: more than {DEEPEST} images are on top of each other")
    try:
        fd = open_file(path, read_only=True)
        try:
            head = None if layout is Format.RAW else qcow2.read_head(path, fd)
            end = os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)
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
    below = _below(path, head, trusted=trusted)
    return ImageInfo(
        path, Format.QCOW2, size,
        _describe(below, _layout(path, head), trusted=trusted, depth=depth + 1),
    )  # fmt: skip


def _below(path: Path, head: qcow2.Head, *, trusted: bool) -> Path:
    assert head.backing is not None
    name = head.backing.removeprefix("file:")
    shown = name if name.isprintable() else ascii(name)
    if not qcow2.is_local(name):
        raise DiskError(f"disk {path}: its backing file {shown} is not a file of this host")
    if not trusted and ("/" in name or path.suffix != ".qcow2"):
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
