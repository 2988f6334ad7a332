"""A tree of files that is to become a file system, as tar archives describe it.

Nothing here is ever unpacked on the host.  Names are those of the guest; a symbolic link on the way
to a file is followed within the tree, as in a chroot, and `..` does not leave its root.
"""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ringlet.errors import ImageError

MAX_FILES: Final = 1 << 20
"""The most files, directories and links in a tree."""
MAX_TEXT: Final = 1 << 27
"""The most bytes of all their names, links' targets and attributes."""
MAX_NAME: Final = 255
MAX_TARGET: Final = 4095
_MAX_DEPTH: Final = 256
_MAX_LINKS: Final = 40

Extent = tuple[int, int]
"""A run of a file's blocks: the number of its first block, and how many there are."""


@dataclass(slots=True, eq=False)
class Node:
    """A file of any kind.  `mode` has its type too; a directory, and only that, has `children`."""

    mode: int
    owner: int = 0
    group: int = 0
    time: int = 0
    size: int = 0
    extents: list[Extent] = field(default_factory=list)
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    attributes: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, "Node"] | None = None


def directory(mode: int = 0o755, *, owner: int = 0, group: int = 0, time: int = 0) -> Node:
    """Return an empty directory."""
    return Node(stat.S_IFDIR | mode, owner, group, time, children={})


def symlink(target: str, time: int = 0) -> Node:
    """Return a symbolic link."""
    content = target.encode(errors="surrogateescape")
    return Node(stat.S_IFLNK | 0o777, time=time, target=content, size=len(content))


class Tree:
    """The tree.  Its methods raise ImageError about names that no file system can hold."""

    def __init__(self) -> None:
        self.root = directory()
        self._count = 0
        self._text = 0

    def find(self, path: str, *, follow: bool = False) -> Node | None:
        """Return the node at `path`, or None; `follow` follows a link at its end too."""
        try:
            above, name = self._place(path, create=False)
        except KeyError:
            return None
        node = above if not name else (above.children or {}).get(name)
        if follow and node is not None and node.target:
            return self._target(path, node, _MAX_LINKS)
        return node

    def add(self, path: str, node: Node) -> None:
        """Put `node` at `path`, in place of what is there; directories above it are made.

        A directory in place of a directory keeps the children of both, and one in place of a link
        to a directory leaves the link, as tar and dpkg do.
        """
        above, name = self._place(path, create=True)
        if not name:
            if node.children is not None:
                self._adopt(self.root, node)
            return
        self._take_room(name, node)
        assert above.children is not None
        old = above.children.get(name)
        if node.children is not None and old is not None:
            there = self._target(path, old, _MAX_LINKS) if old.target else old
            if there is not None and there.children is not None:
                if there is old:
                    self._adopt(there, node)
                return
        above.children[name] = node

    def remove(self, path: str) -> None:
        """Remove what is at `path`, if anything is; a link is not followed."""
        try:
            above, name = self._place(path, create=False)
        except KeyError:
            return
        if name and above.children is not None:
            above.children.pop(name, None)

    def trail(self, path: str) -> Sequence[tuple[Node, str]]:
        """Return each directory on the way to `path`, and the name that leads on from there.

        Raises KeyError if a directory is missing.
        """
        *above, last = [part for part in path.split("/") if part not in ("", ".")] or [""]
        way = self._walk(above, path, create=False)
        names = [*(name for name, _ in way[1:]), last]
        return [(node, name) for (_, node), name in zip(way, names, strict=True) if name]

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Yield each path and its node, a directory before its children."""
        waiting = [("", self.root)]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            for name in sorted(node.children or {}, reverse=True):
                assert node.children is not None
                waiting.append((f"{path}/{name}", node.children[name]))

    # --- inside

    @staticmethod
    def _adopt(old: Node, new: Node) -> None:
        old.mode, old.owner, old.group, old.time = new.mode, new.owner, new.group, new.time
        old.attributes = new.attributes

    def _place(self, path: str, *, create: bool) -> tuple[Node, str]:
        """Return the directory of `path` and the last name; the name is empty for the root."""
        *above, name = [part for part in path.split("/") if part not in ("", ".")] or [""]
        if name == "..":
            raise ImageError(f"{path!r}: a file's name in an archive cannot be '..'")
        _check(path, name)
        return self._descend(above, path, create=create), name

    def _descend(self, parts: list[str], path: str, *, create: bool) -> Node:
        return self._walk(parts, path, create=create)[-1][1]

    def _walk(self, parts: list[str], path: str, *, create: bool) -> list[tuple[str, Node]]:
        """Return the directories from the root to where `parts` lead, with their names.

        Nodes do not know their parents.
        """
        trail = [("", self.root)]
        waiting = parts[::-1]
        links = 0
        while waiting:
            name = waiting.pop()
            if name == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            here = trail[-1][1]
            assert here.children is not None
            node = here.children.get(name)
            if node is not None and node.target:
                links += 1
                if links > _MAX_LINKS:
                    raise ImageError(f"{path!r}: too many symbolic links on the way")
                target = node.target.decode(errors="surrogateescape")
                if target.startswith("/"):
                    del trail[1:]
                waiting += [part for part in target.split("/") if part not in ("", ".")][::-1]
                continue
            if node is None or node.children is None:
                if not create:
                    raise KeyError(path)
                _check(path, name)
                node = directory()
                self._take_room(name, node)
                here.children[name] = node
            trail.append((name, node))
            if len(trail) > _MAX_DEPTH:
                raise ImageError(f"{path[:80]!r}...: directories are nested too deeply")
        return trail

    def _take_room(self, name: str, node: Node) -> None:
        """Count what `node` takes of the host's memory.  Raises ImageError if it is too much."""
        self._count += 1
        self._text += len(name) + len(node.target)
        self._text += sum(len(key) + len(value) for key, value in node.attributes.items())
        if self._count > MAX_FILES:
            raise ImageError(f"more than {MAX_FILES} files are too many for an image")
        if self._text > MAX_TEXT:
            raise ImageError("the names and attributes of its files are too long for an image")

    def _target(self, path: str, node: Node, links: int) -> Node | None:
        """Return what a link at `path` leads to, or None."""
        target = node.target.decode(errors="surrogateescape")
        whole = target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"
        try:
            parts = [part for part in whole.split("/") if part not in ("", ".")]
            return self._descend(parts, path, create=False)
        except KeyError:
            pass
        # It does not lead to a directory, so to a file or nowhere.
        try:
            above, name = self._place(whole, create=False)
        except (KeyError, ImageError):
            return None
        found = (above.children or {}).get(name)
        if found is not None and found.target:
            return self._target(whole, found, links - 1) if links else None
        return found


def _check(path: str, name: str) -> None:
    size = len(name.encode(errors="surrogateescape"))
    if size > MAX_NAME or "\0" in name:
        raise ImageError(f"{path[:80]!r}: no file system can hold a file of this name")
