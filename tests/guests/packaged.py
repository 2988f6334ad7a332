"""Software of Debian's packages as guests of tests, which are skipped where it cannot be had."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.cpio import CpioWriter
from ringlet.images.deb import open_data
from ringlet.images.debian import extract, fetch_package, fetch_packages
from ringlet.images.release import DEBIAN_12, DEBIAN_12_I386, Release
from ringlet.images.store import Store, default_root

SHELL = """#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox stty columns 1000 </dev/ttyS0
exec /bin/busybox sh </dev/ttyS0 >/dev/ttyS0 2>&1
"""
"""An init that is a shell on the first serial port."""


def packaged_file(package: str, name: str, directory: Path, release: Release = DEBIAN_12) -> Path:
    """Return a copy in `directory` of the file of `package` whose name matches `name`."""
    try:
        deb = fetch_package(package, release)
        target = directory / f"{package}-{release.architecture}"
        extract(deb, re.compile(name), target)
    except ImageError as error:
        pytest.skip(f"no {package} here: {error}")
    target.chmod(0o755)
    return target


def unpacked(packages: Sequence[str], directory: Path, release: Release = DEBIAN_12) -> Path:
    """Unpack the files of `packages` to `directory`, and return it."""
    for package in packages:
        try:
            _unpack(fetch_package(package, release), directory)
        except ImageError as error:
            pytest.skip(f"no {package} here: {error}")
    return directory


def unpacked_whole(packages: Sequence[str], directory: Path, release: Release) -> Path:
    """Unpack `packages` and all that they depend on to `directory`, and return it."""
    try:
        store = Store(default_root())
        with store.locked(), tempfile.TemporaryDirectory() as fetched:
            debs, _ = fetch_packages(packages, Path(fetched), store=store, release=release)
            for deb in debs:
                _unpack(deb, directory)
    except ImageError as error:
        pytest.skip(f"no {packages[0]} here: {error}")
    return directory


def _unpack(deb: Path, directory: Path) -> None:
    with open_data(deb) as data, tarfile.open(fileobj=data, mode="r|") as archive:
        archive.extractall(directory, filter="tar")


def busybox_of_i386(directory: Path) -> Path:
    """Return a static busybox for 32-bit kernels."""
    return packaged_file("busybox-static", r"\./(usr/)?bin/busybox", directory, DEBIAN_12_I386)


def shell_disk(busybox: Path, init: str = SHELL) -> bytes:
    """Return an initial RAM disk that has busybox and an init."""
    disk = CpioWriter()
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        disk.directory(name)
    disk.character_device("dev/console", 5, 1)
    disk.file("bin/busybox", busybox.read_bytes(), 0o755)
    disk.symlink("bin/sh", "busybox")
    disk.file("init", init.encode(), 0o755)
    return disk.contents()
