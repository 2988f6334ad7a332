"""Lists what the cache directory keeps, and removes what no run needs.

`ringlet.images.store` has the layout.  What is removed is made or fetched again when a run needs
it.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.images.store import UNFINISHED, Store

UNUSED_S: Final = 30 * 24 * 3600
"""Translations that no run has read for this time, in seconds, count as unused."""

_ENTRIES: Final = ("kernels", "tools", "images")
_FETCHED: Final = "apt"
_TRANSLATIONS: Final = "translations"
_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in the cache: where it is, its size on disk in bytes, and why it is not needed.

    `used` is the time of its last use or change, in seconds since 1970.  `unneeded` is empty for
    what a run may need.
    """

    name: str
    path: Path
    size: int
    used: float
    unneeded: str = ""


def items(store: Store, now: float | None = None) -> list[Item]:
    """Return all that the cache keeps, by name.  Files that vanish meanwhile are left out."""
    root = store.root
    now = time.time() if now is None else now
    found: list[Item] = []
    for path in _children(root):
        if path.name in _ENTRIES:
            found += _entries(store, path)
        elif path.name == _TRANSLATIONS:
            found += _translations(root, path, now)
        elif path.name == _FETCHED:
            found += (
                _item(root, one, "package lists, which the next fetch brings again")
                for one in _children(path)
            )
        elif path.is_dir() and not path.is_symlink():
            found += (_item(root, one) for one in _children(path))
    return sorted(found, key=lambda item: item.name)


def remove(store: Store, unwanted: list[Item]) -> int:
    """Remove items and return the bytes that this frees.

    The caller must hold the store's lock.  Raises OSError.
    """
    freed = 0
    for item in unwanted:
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)
        freed += item.size
        with contextlib.suppress(OSError):  # it is not empty, or is the root
            if item.path.parent != store.root:
                item.path.parent.rmdir()
    return freed


def _entries(store: Store, kind: Path) -> Iterator[Item]:
    """Yield the entries below `kind`, which are directories with a manifest, at any depth."""
    for path in _children(kind):
        relative = path.relative_to(store.root)
        if path.name.startswith(UNFINISHED):
            yield _item(store.root, path, "was left by a process that was killed")
        elif (path / _MANIFEST).exists():
            entry = store.find(str(relative.parent), path.name)
            broken = entry is None or any(entry.file(name) is None for name in entry.hashes)
            yield _item(store.root, path, "is damaged, so a run would fetch it" if broken else "")
        elif path.is_dir() and not path.is_symlink():
            yield from _entries(store, path)
        else:
            yield _item(store.root, path, "belongs to no entry")


def _translations(root: Path, directory: Path, now: float) -> Iterator[Item]:
    for path in _children(directory):
        if path.name == "key":
            continue
        item = _item(root, path)
        old = now - item.used > UNUSED_S
        unneeded = f"was not used for {UNUSED_S // 86400} days" if old else ""
        if path.name.startswith(UNFINISHED):
            unneeded = "was left by a process that was killed"
        yield _item(root, path, unneeded)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _item(root: Path, path: Path, unneeded: str = "") -> Item:
    size = used = 0.0
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    for one in (path, *inside):
        with contextlib.suppress(OSError):  # another process has removed it
            status = one.lstat()
            size += status.st_blocks * 512
            used = max(used, status.st_mtime)
    return Item(str(path.relative_to(root)), path, int(size), used, unneeded)
