"""Lists what the cache directory keeps, and removes what no run needs.

`ringlet.images.store` has the layout.  What is removed is made or fetched again when a run needs
it, so an image that a user has imported is never among it.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError
from ringlet.images.catalog import REMOVED, Images
from ringlet.images.names import from_file, is_own
from ringlet.images.store import UNFINISHED, Store

UNUSED_S: Final = 30 * 24 * 3600
"""Translations that no run has read for this time, in seconds, count as unused."""

_ENTRIES: Final = ("kernels", "modules", "packages", "tools")
_IMAGES: Final = "images"
_FETCHED: Final = "apt"
_TRANSLATIONS: Final = "translations"
_MANIFEST: Final = "manifest.json"
_LEFT: Final = "was left by a process that was killed"
_BUSY: Final = "another process is making it"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in the cache: where it is, its size on disk in bytes, and why it is not needed.

    `used` is the time of its last use or change, in seconds since 1970.  `unneeded` is empty for
    what a run may need, and `kept` for what may be removed: else it says why it must stay.
    """

    name: str
    path: Path
    size: int
    used: float
    unneeded: str = ""
    kept: str = ""


def items(store: Store, now: float | None = None, *, busy: bool = False) -> list[Item]:
    """Return all that the cache keeps, by name.  Files that vanish meanwhile are left out.

    `busy` says that another process holds the store's lock; what is not finished is its own then.
    """
    root = store.root
    now = time.time() if now is None else now
    found: list[Item] = []
    for path in _children(root):
        if path.name in _ENTRIES:
            found += _entries(store, path, busy)
        elif path.name == _IMAGES:
            found += (_image(Images(store), one, busy) for one in _children(path))
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
    """Remove items and return the bytes that this frees.  What must stay is left out.

    The caller must hold the store's lock.  Raises OSError.
    """
    freed = 0
    for item in unwanted:
        if item.kept:
            continue
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)
        freed += item.size
        with contextlib.suppress(OSError):  # it is not empty, or is the root
            if item.path.parent != store.root:
                item.path.parent.rmdir()
    return freed


def _entries(store: Store, kind: Path, busy: bool) -> Iterator[Item]:
    """Yield the entries below `kind`, which are directories with a manifest, at any depth."""
    for path in _children(kind):
        relative = path.relative_to(store.root)
        if path.name.startswith(UNFINISHED):
            yield _unfinished(store.root, path, busy)
        elif (path / _MANIFEST).exists():
            entry = store.find(str(relative.parent), path.name)
            broken = entry is None or any(entry.file(name) is None for name in entry.hashes)
            yield _item(store.root, path, "is damaged, so a run would fetch it" if broken else "")
        elif path.is_dir() and not path.is_symlink():
            yield from _entries(store, path, busy)
        else:
            yield _item(store.root, path, "belongs to no entry")


def _image(images: Images, path: Path, busy: bool) -> Item:
    """Return the item of an image of a guest, or of what else is among the images."""
    root = images.store.root
    if path.name.startswith((UNFINISHED, REMOVED)):
        return _unfinished(root, path, busy)
    name = from_file(path.name)
    try:
        image = images.find(name)
    except ConfigError:  # no image has such a name
        return _item(root, path, "belongs to no entry")
    if image is None:
        if not any(path.glob("disk.*")):
            return _item(root, path, "belongs to no entry")
        if is_own(name):
            return _item(root, path, "is damaged, so a run would build it")
        return _item(root, path, kept=f"is damaged; `ringlet image rm {name}` removes it")
    if not image.made_again:
        return _item(root, path, kept=f"imported; `ringlet image rm {name}` removes it")
    return _item(root, path, kept="a running machine uses it" if image.in_use() else "")


def _unfinished(root: Path, path: Path, busy: bool) -> Item:
    return _item(root, path, kept=_BUSY) if busy else _item(root, path, _LEFT)


def _translations(root: Path, directory: Path, now: float) -> Iterator[Item]:
    for path in _children(directory):
        if path.name == "key":
            continue
        item = _item(root, path)
        old = now - item.used > UNUSED_S
        unneeded = f"was not used for {UNUSED_S // 86400} days" if old else ""
        if path.name.startswith(UNFINISHED):
            unneeded = _LEFT
        yield _item(root, path, unneeded)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _item(root: Path, path: Path, unneeded: str = "", kept: str = "") -> Item:
    size = used = 0.0
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    for one in (path, *inside):
        with contextlib.suppress(OSError):  # another process has removed it
            status = one.lstat()
            size += status.st_blocks * 512
            used = max(used, status.st_mtime)
    return Item(str(path.relative_to(root)), path, int(size), used, unneeded, kept)
