"""Reads tar archives into a tree of files, and their contents into the image that is being made.

An archive is hostile input.  It is read once, front to back, and never unpacked on the host.
"""

import stat
import tarfile
from collections.abc import Callable
from typing import IO, BinaryIO, Final, cast

from ringlet.errors import ImageError
from ringlet.images.compression import DAMAGED
from ringlet.images.ext4 import Ext4Writer
from ringlet.images.headers import Spent, members, open_tar
from ringlet.images.tree import MAX_TARGET, Node, Tree

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
_BUFFER: Final = 1 << 20
MAX_REMOVED: Final = 1 << 22
"""The most files that the whiteouts of all layers look at."""
_MAX_WHITEOUT: Final = 4096
_MAX_PADDING: Final = 16 << 20
_ATTRIBUTE: Final = "SCHILY.xattr."
_MAX_ATTRIBUTE: Final = 4096
_MAX_DEVICE: Final = 0xFFF, 0xFFFFF
_TYPES: Final = {
    tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO,
}  # fmt: skip
Seen = Callable[[str, Node], None]


def _nothing(_path: str, _node: Node) -> None:
    pass


def add_tar(
    source: IO[bytes],
    name: str,
    tree: Tree,
    writer: Ext4Writer,
    *,
    layer: bool = False,
    seen: Seen = _nothing,
    spent: Spent | None = None,
) -> None:
    """Add the files of the uncompressed archive `source` to `tree` and `writer`.

    `name` is for messages.
    With `layer` it is a layer of an OCI image, whose whiteouts remove files of the layers below.
    `seen` is called with the path of each file and the node for it, and `spent` counts for all
    layers of an image.  Raises ImageError.
    """
    spent = spent or Spent()
    removed = _Whiteouts(tree, spent) if layer else None
    try:
        options = {"bufsize": _BUFFER, "errors": "surrogateescape", "spent": spent}
        with open_tar(source, "r|", **options) as archive:
            for member in members(archive):
                if removed is not None and removed.take(member):
                    continue
                path = _path(member.name)
                node = _add(archive, member, path, tree, writer)
                if removed is not None:
                    removed.saw(path)
                seen(path, node)
        _expect_end(source, name)
    except (tarfile.TarError, *DAMAGED, ValueError, OverflowError) as error:
        raise ImageError(f"{name}: not a readable tar archive: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ImageError(f"{name}: its compressed data is damaged: {error}") from error


def _expect_end(source: IO[bytes], name: str) -> None:
    """Read what follows the archive: only padding, and then what the compression checks."""
    for _ in range(_MAX_PADDING // _BUFFER):
        data = source.read(_BUFFER)
        if not data:
            return
        if any(data):
            break
    raise ImageError(f"{name}: the archive has more data behind its end")


class _Whiteouts:
    """The whiteouts of one layer, which concern the layers below and never the layer itself.

    OCI image specification, layer.md, "Whiteouts".
    """

    def __init__(self, tree: Tree, spent: Spent) -> None:
        self._tree = tree
        self._spent = spent
        # What the layer has put in each directory.  The paths themselves could be far longer.
        self._own: dict[Node, set[str]] = {}

    def saw(self, path: str) -> None:
        """Note that the layer has `path`, and so the directories above it."""
        for above, name in reversed(self._tree.trail(path)):
            names = self._own.setdefault(above, set())
            if name in names:
                return
            names.add(name)

    def take(self, member: tarfile.TarInfo) -> bool:
        """Return whether `member` is a whiteout, which is then performed."""
        path = _path(member.name)
        above, _, last = path.rpartition("/")
        if not last.startswith(WHITEOUT):
            return False
        if member.size > _MAX_WHITEOUT:
            raise ImageError(f"{path[:80]!a}: the mark of a removed file has {member.size} bytes")
        node = self._tree.find(above, follow=True) if above else self._tree.root
        if node is None or node.children is None:
            return True
        if last == OPAQUE:
            for child in list(node.children):
                self._remove(node, child)
        elif last.startswith(f"{WHITEOUT}{WHITEOUT}"):
            pass  # AUFS's own files
        elif (hidden := last.removeprefix(WHITEOUT)) not in ("", ".", ".."):
            self._remove(node, hidden)
        return True

    def _remove(self, above: Node, name: str) -> None:
        """Remove `name` from the directory `above` but for what this layer has put there."""
        self._spent.removed += 1
        if self._spent.removed > MAX_REMOVED:
            raise ImageError(f"layers that remove more than {MAX_REMOVED} files are no image's")
        assert above.children is not None
        if name not in self._own.get(above, ()):
            above.children.pop(name, None)
            return
        node = above.children.get(name)
        for child in list((node.children if node is not None else None) or {}):
            assert node is not None
            self._remove(node, child)


def _path(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageError(f"{name[:80]!r}: the archive names a file outside of itself")
    return "/".join(parts)


def _add(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, tree: Tree, writer: Ext4Writer
) -> Node:
    if member.islnk():
        found = tree.find(_path(member.linkname))
        if found is None or found.children is not None:
            raise ImageError(f"{path}: a hard link to what is no file before it in the archive")
        tree.add(path, found)
        return found
    node = Node(
        _TYPES.get(member.type, stat.S_IFREG) | member.mode & 0o7777,
        _number(member.uid, path), _number(member.gid, path), int(member.mtime),
        attributes=_attributes(member),
    )  # fmt: skip
    if member.isdir():
        node.children = {}
    elif member.issym():
        node.target = member.linkname.encode(errors="surrogateescape")
        node.size = len(node.target)
        if not 0 < node.size <= MAX_TARGET or b"\0" in node.target:
            raise ImageError(f"{path}: no file system can hold this symbolic link")
    elif member.ischr() or member.isblk():
        node.device = member.devmajor, member.devminor
        if any(not 0 <= n <= most for n, most in zip(node.device, _MAX_DEVICE, strict=True)):
            raise ImageError(f"{path}: a device's numbers are out of range")
    elif member.isreg():
        node.size = member.size
        content = archive.extractfile(member)
        assert content is not None
        node.extents = writer.store(cast("BinaryIO", content), member.size)
    elif not member.isfifo():
        raise ImageError(f"{path}: an archive's member of type {member.type!r} is not known")
    tree.add(path, node)
    return node


def _number(value: int, path: str) -> int:
    if not 0 <= value < 1 << 32:
        raise ImageError(f"{path}: its owner's number is out of range")
    return value


def _attributes(member: tarfile.TarInfo) -> dict[str, bytes]:
    found = {}
    room = _MAX_ATTRIBUTE  # of all that a file has
    for key, value in member.pax_headers.items():
        if key.startswith(_ATTRIBUTE) and len(key) + len(value) <= room:
            found[key.removeprefix(_ATTRIBUTE)] = value.encode(errors="surrogateescape")
            room -= len(key) + len(value)
    return found
