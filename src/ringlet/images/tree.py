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
MAX_STEPS: Final = 1 << 27
"""The most steps through directories and links on the ways to all its files.

A Debian with 140,000 files takes 1.6 million, and as a layer of an OCI image 3.1 million.  A chain
of links with long targets takes 74,000 for one file.
"""
MAX_NAME: Final = 255
MAX_TARGET: Final = 4095
_MAX_DEPTH: Final = 256
_MAX_LINKS: Final = 40
_LETTERS: Final = 16
"""The characters of a path that take as much time as a step."""
_WIDE: Final = 4
"""The most bytes that a character takes in memory."""

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
    """The tree.

    Its methods raise ImageError about names that no file system can hold, and about what would take
    too much of the host's memory or time.
    """

    def __init__(self) -> None:
        self.root = directory()
        self._count = 0
        self._text = 0
        self._steps = 0

    @property
    def steps(self) -> int:
        """The steps that were taken so far, of which `MAX_STEPS` are allowed."""
        return self._steps

    def find(self, path: str, *, follow: bool = False) -> Node | None:
        """Return the node at `path`, or None; `follow` follows a link at its end too."""
        try:
            if follow:
                return self._walk(self._parts(path), path, file=True)[-1][1]
            above, name = self._place(path, create=False)
        except KeyError:
            return None
        return above if not name else (above.children or {}).get(name)

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
            there = self.find(path, follow=True) if old.target else old
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
        *above, last = self._parts(path) or [""]
        way = self._walk(above, path)
        names = [*(name for name, _ in way[1:]), last]
        return [(node, name) for (_, node), name in zip(way, names, strict=True) if name]

    def walk(self) -> Iterator[Node]:
        """Yield each node, a directory before its children; one of several names comes again.

        There are no paths: those of all files could take far more memory than the tree.
        """
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            children = node.children or {}
            waiting += [children[name] for name in sorted(children, reverse=True)]

    # --- inside

    @staticmethod
    def _adopt(old: Node, new: Node) -> None:
        old.mode, old.owner, old.group, old.time = new.mode, new.owner, new.group, new.time
        old.attributes = new.attributes

    def _place(self, path: str, *, create: bool) -> tuple[Node, str]:
        """Return the directory of `path` and the last name; the name is empty for the root."""
        *above, name = self._parts(path) or [""]
        if name == "..":
            raise ImageError(f"{path[:80]!r}: a file's name in an archive cannot be '..'")
        _check(path, name)
        return self._walk(above, path, create=create)[-1][1], name

    def _parts(self, path: str) -> list[str]:
        """Return the names in a path or a link's target, and count the steps that they take.

        Raises ImageError if there are too many.
        """
        self._steps += 1 + path.count("/") + len(path) // _LETTERS
        if self._steps > MAX_STEPS:
            raise ImageError(
                f"more than {MAX_STEPS} steps through directories and links are too many for an "
                "image"
            )
        return [part for part in path.split("/") if part not in ("", ".")]

    def _walk(
        self, parts: list[str], path: str, *, create: bool = False, file: bool = False
    ) -> list[tuple[str, Node]]:
        """Return the directories from the root to where `parts` lead, with their names.

        With `file` the last may be of any other kind.  Nodes do not know their parents.  Raises
        KeyError if one is missing, unless `create` makes it.
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
                    raise ImageError(f"{path[:80]!r}: too many symbolic links on the way")
                target = node.target.decode(errors="surrogateescape")
                if target.startswith("/"):
                    del trail[1:]
                waiting += self._parts(target)[::-1]
                continue
            if file and node is not None and not waiting:
                return [*trail, (name, node)]
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
        self._text += _room(name) + len(node.target)
        self._text += sum(_room(key) + len(value) for key, value in node.attributes.items())
        if self._count > MAX_FILES:
            raise ImageError(f"more than {MAX_FILES} files are too many for an image")
        if self._text > MAX_TEXT:
            raise ImageError("the names and attributes of its files are too long for an image")


def _room(text: str) -> int:
    """Return the bytes that `text` takes in memory at most."""
    return len(text) if text.isascii() else len(text) * _WIDE


def _check(path: str, name: str) -> None:
    size = len(name.encode(errors="surrogateescape"))
    if size > MAX_NAME or "\0" in name:
        raise ImageError(f"{path[:80]!r}: no file system can hold a file of this name")
