"""Finds the guest's tools: a static busybox, the host's if it is suitable, else Debian's."""

import subprocess
from pathlib import Path
from typing import Final

from ringlet.errors import ImageError
from ringlet.images.apt import Apt
from ringlet.images.debian import Progress, fetch_busybox, silent
from ringlet.images.release import AMD64, DEBIAN_12_I386
from ringlet.images.repository import Repository
from ringlet.images.store import Store
from ringlet.images.tools import output

HOST_BUSYBOX: Final = Path("/bin/busybox")
NEEDED: Final = frozenset(
    ("cat", "chroot", "cp", "dd", "hostname", "insmod", "ip", "ln", "mkdir", "mkfifo", "mount",
     "poweroff", "rm", "setsid", "sh", "sleep", "stty", "switch_root", "sync", "umount")
)  # fmt: skip
"""The applets that the guest's init calls."""

_TIMEOUT_S: Final = 20
_PT_INTERP: Final = 3
_EM_X86_64: Final = 62
_HEADER: Final = 64
_SEGMENT: Final = 56


def find_busybox(
    progress: Progress = silent,
    *,
    store: Store | None = None,
    apt: Apt | Repository | None = None,
    host: Path = HOST_BUSYBOX,
    architecture: str = AMD64,
) -> Path:
    """Return a busybox for the guest.  Raises ImageError."""
    if architecture != AMD64:
        return fetch_busybox(progress, store=store, apt=apt, release=DEBIAN_12_I386)
    if is_static(host):
        try:
            names = {Path(path).name for path in applets(host)}
        except ImageError:
            names = set()
        if names >= NEEDED:
            return host
    return fetch_busybox(progress, store=store, apt=apt)


def applets(busybox: Path) -> list[str]:
    """Return the paths of busybox's applets, such as "usr/bin/awk".

    Raises ImageError.
    """
    try:
        done = output([busybox, "--list-full"], _TIMEOUT_S)
        done.check_returncode()
    except (OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"{busybox}: cannot list its applets: {error}") from error
    return done.stdout.split()


def is_static(path: Path) -> bool:
    """Return whether `path` is an x86-64 program that needs no dynamic linker."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            if not header.startswith(b"\x7fELF\x02\x01") or len(header) < _HEADER:
                return False
            if int.from_bytes(header[18:20], "little") != _EM_X86_64:
                return False
            file.seek(int.from_bytes(header[32:40], "little"))
            size = int.from_bytes(header[54:56], "little")
            count = int.from_bytes(header[56:58], "little")
            table = file.read(_SEGMENT * count)
    except (OSError, ValueError, OverflowError):
        return False
    if size != _SEGMENT or len(table) != size * count:
        return False
    kinds = [int.from_bytes(table[i * size : i * size + 4], "little") for i in range(count)]
    return bool(kinds) and _PT_INTERP not in kinds
