"""Writes an ext4 file system: the disk image of a guest, made without root and without mke2fs.

The layout is Documentation/filesystems/ext4 of Linux, in its simplest form.  All groups' bitmaps
and inode tables stand at the start (flex_bg), the superblock has no copies (sparse_super2), and
each file's blocks follow one another.  What is zero stays a hole of the image file.  Numbers are
little-endian, a block has 4096 bytes.
"""

import hashlib
import itertools
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.config import format_size
from ringlet.errors import ImageError
from ringlet.images.tree import Extent, Node, Tree, directory

BLOCK: Final = 4096
GROUP: Final = 8 * BLOCK
"""The blocks in a group: as many as a bitmap of one block has bits."""
GROUP_BYTES: Final = GROUP * BLOCK
_INODE: Final = 256
_INODES_PER_GROUP: Final = GROUP * BLOCK // 16384
_TABLE: Final = _INODES_PER_GROUP * _INODE // BLOCK
_DESCRIPTOR: Final = 32
_ROOT: Final = 2
_JOURNAL: Final = 8
_FIRST: Final = 11
_JOURNAL_BLOCKS: Final = 8192
_MAX_GROUPS: Final = 16 * BLOCK // _DESCRIPTOR
_MAX_EXTENT: Final = 32768
_IN_INODE: Final = 4
_IN_BLOCK: Final = (BLOCK - 12) // 12
_EXTENTS_FLAG: Final = 0x80000
_FAST_LINK: Final = 60
_EXTRA: Final = 32
_CHUNK: Final = 1 << 20

_COMPATIBLE: Final = 0x4 | 0x8 | 0x20 | 0x200  # has_journal, ext_attr, dir_index, sparse_super2
_INCOMPATIBLE: Final = 0x2 | 0x40 | 0x200  # filetype, extents, flex_bg
_READ_ONLY: Final = 0x2 | 0x20 | 0x40  # large_file, dir_nlink, extra_isize
_FILE_TYPES: Final = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6, stat.S_IFLNK: 7,
}  # fmt: skip
_PREFIXES: Final = (("user.", 1), ("trusted.", 4), ("security.", 6))


class Ext4Writer:
    """A file system of `size` bytes that is written to `path`, which is made.

    First the contents of files are written, each by `store`, then `finish` writes all the rest.
    Blocks of files that are not in the tree at the end are free in the file system.  The methods
    raise ImageError if the file system is too small, and OSError.
    """

    def __init__(self, path: Path, size: int, *, label: str = "", seed: bytes = b"") -> None:
        self._groups = -(-size // GROUP_BYTES)
        if not 1 <= self._groups <= _MAX_GROUPS:
            most = format_size(_MAX_GROUPS * GROUP_BYTES)
            raise ImageError(f"no image can have {format_size(size)}; give at most {most}")
        self._label = label.encode()[:16]
        self._uuid = bytearray(hashlib.sha256(seed or os.urandom(16)).digest()[:16])
        self._uuid[6], self._uuid[8] = self._uuid[6] & 0x0F | 0x40, self._uuid[8] & 0x3F | 0x80
        self._bitmaps = 1 + -(-self._groups * _DESCRIPTOR // BLOCK)
        self._tables = self._bitmaps + 2 * self._groups
        self._journal = self._tables + self._groups * _TABLE
        self._next = self._journal + _JOURNAL_BLOCKS
        self._end = self._groups * GROUP
        if self._next >= self._end:
            raise ImageError(f"an image of {format_size(size)} is too small")
        self._used = [(0, self._next)]
        self._file = path.open("w+b")
        self._file.truncate(self._end * BLOCK)

    @property
    def room(self) -> int:
        """The bytes that are still free for files."""
        return (self._end - self._next) * BLOCK

    def close(self) -> None:
        """Close the image file."""
        self._file.close()

    def store(self, source: BinaryIO, size: int) -> list[Extent]:
        """Write `size` bytes of a file's contents and return the blocks that have them.

        Raises ImageError if `source` ends earlier.
        """
        if not size:
            return []
        extents = self._take(-(-size // BLOCK))
        descriptor, place, left = self._file.fileno(), extents[0][0] * BLOCK, size
        while left:
            data = source.read(min(_CHUNK, left))
            if not data:
                raise ImageError(f"a file's last {left} bytes are missing in the archive")
            if data.count(0) != len(data):
                os.pwrite(descriptor, data, place)
            place += len(data)
            left -= len(data)
        return extents

    def load(self, extents: Sequence[Extent], size: int) -> bytes:
        """Return what `store` wrote."""
        parts = [os.pread(self._file.fileno(), n * BLOCK, first * BLOCK) for first, n in extents]
        return b"".join(parts)[:size]

    def finish(self, tree: Tree) -> None:
        """Write directories, inodes, bitmaps and the superblock, and all of it to the disk."""
        if "lost+found" not in (tree.root.children or {}):
            tree.add("lost+found", directory(0o700))
        numbers, links, nodes = self._number(tree)
        inodes = dict(zip(numbers.values(), nodes, strict=True))
        parents = {id(tree.root): _ROOT}
        for node in nodes:
            for child in (node.children or {}).values():
                parents[id(child)] = numbers[id(node)]
        for number, node in inodes.items():
            if node.children is not None:
                self._directory(node, number, parents[id(node)], numbers)
            self._put(number, self._inode(node, links[id(node)]))
            self._used += node.extents
        self._put(_JOURNAL, self._make_journal())
        directories = [number for number, node in inodes.items() if node.children is not None]
        self._bookkeeping(set(inodes), directories)
        self._file.flush()
        os.fsync(self._file.fileno())

    # --- inside

    def _take(self, count: int) -> list[Extent]:
        if count > self._end - self._next:
            size = format_size(self._end * BLOCK)
            raise ImageError(f"the files do not fit into an image of {size}; make a larger one")
        first = self._next
        self._next += count
        ends = range(first, first + count, _MAX_EXTENT)
        return [(start, min(_MAX_EXTENT, first + count - start)) for start in ends]

    def _block(self, number: int, data: bytes) -> None:
        os.pwrite(self._file.fileno(), data, number * BLOCK)

    def _put(self, number: int, inode: bytes) -> None:
        place = self._tables * BLOCK + (number - 1) * _INODE
        os.pwrite(self._file.fileno(), inode, place)

    def _number(self, tree: Tree) -> tuple[dict[int, int], dict[int, int], list[Node]]:
        """Return each node's inode number and count of links, by identity, and the nodes."""
        numbers: dict[int, int] = {}
        links: dict[int, int] = {}
        nodes: list[Node] = []
        free = itertools.count(_FIRST)
        # Tools expect lost+found to have the first number.
        found = (tree.root.children or {})["lost+found"]
        for node in itertools.chain([tree.root, found], tree.walk()):
            key = id(node)
            if key not in numbers:
                numbers[key] = _ROOT if node is tree.root else next(free)
                nodes.append(node)
                below = (node.children or {}).values()
                of_directory = 2 + sum(child.children is not None for child in below)
                links[key] = of_directory if node.children is not None else 0
        for node in nodes:
            for child in (node.children or {}).values():
                if child.children is None:
                    links[id(child)] += 1
        limit = self._groups * _INODES_PER_GROUP
        if len(nodes) + _FIRST > limit:
            size = format_size(self._end * BLOCK)
            raise ImageError(f"an image of {size} has room for {limit} files")
        return numbers, links, nodes

    def _directory(self, node: Node, number: int, parent: int, numbers: dict[int, int]) -> None:
        """Write a directory's entries and set its node's size and extents."""
        assert node.children is not None
        entries = [(number, b".", 2), (parent, b"..", 2)]
        for name, child in node.children.items():
            kind = _FILE_TYPES[stat.S_IFMT(child.mode)]
            entries.append((numbers[id(child)], name.encode(errors="surrogateescape"), kind))
        data = b"".join(_entry_blocks(entries))
        node.extents = self._take(len(data) // BLOCK)
        node.size = len(data)
        self._block(node.extents[0][0], data)

    def _inode(self, node: Node, links: int) -> bytes:
        flags, blocks = 0, sum(count for _, count in node.extents)
        if stat.S_ISLNK(node.mode) and len(node.target) < _FAST_LINK:
            place = node.target
        elif stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
            major, minor = node.device
            large = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
            place = struct.pack("<II", 0, large & 0xFFFF_FFFF)
        elif stat.S_ISFIFO(node.mode) or stat.S_ISSOCK(node.mode):
            place = b""
        else:
            if stat.S_ISLNK(node.mode):
                node.extents = self._take(1)
                self._block(node.extents[0][0], node.target)
                blocks = 1
            place, more = self._extents(node.extents)
            blocks += more
            flags = _EXTENTS_FLAG
        # ext4 counts a directory's links up to 65000, and then as 1 (dir_nlink).
        links = 1 if node.children is not None and links > 65000 else links
        if links > 65000:
            raise ImageError("a file has more hard links than ext4 allows")
        time = max(0, min(node.time, 0x7FFF_FFFF))
        head = struct.pack(
            "<HHIIIIIHHIII60sIIII12s",
            node.mode, node.owner & 0xFFFF, node.size & 0xFFFF_FFFF, time, time, time, 0,
            node.group & 0xFFFF, links, blocks * (BLOCK // 512), flags, 0, place, 0, 0,
            node.size >> 32, 0,
            struct.pack("<HHHHHH", 0, 0, node.owner >> 16, node.group >> 16, 0, 0),
        )  # fmt: skip
        extra = struct.pack("<HHIIIIIII", _EXTRA, 0, 0, 0, 0, time, 0, 0, 0)
        attributes = _attributes(node.attributes, _INODE - len(head) - len(extra))
        return (head + extra + attributes).ljust(_INODE, b"\0")

    def _extents(self, extents: Sequence[Extent]) -> tuple[bytes, int]:
        """Return the inode's root of the extent tree, and how many blocks the tree has itself."""
        leaves = _leaves(extents)
        if len(leaves) <= _IN_INODE:
            return struct.pack("<HHHHI", 0xF30A, len(leaves), _IN_INODE, 0, 0) + b"".join(leaves), 0
        nodes = [leaves[start : start + _IN_BLOCK] for start in range(0, len(leaves), _IN_BLOCK)]
        if len(nodes) > _IN_INODE:
            raise ImageError("a file is too large for an image")
        root = struct.pack("<HHHHI", 0xF30A, len(nodes), _IN_INODE, 1, 0)
        for node in nodes:
            [(place, _)] = self._take(1)
            self._used.append((place, 1))
            header = struct.pack("<HHHHI", 0xF30A, len(node), _IN_BLOCK, 0, 0)
            self._block(place, header + b"".join(node))
            (first,) = struct.unpack_from("<I", node[0])
            root += struct.pack("<IIHH", first, place, 0, 0)
        return root, len(nodes)

    def _make_journal(self) -> bytes:
        # Its numbers are big-endian: magic, superblock of version 2, ..., and that it is empty.
        head = struct.pack(">IIIIIIII", 0xC03B3998, 4, 0, BLOCK, _JOURNAL_BLOCKS, 1, 1, 0)
        body = head.ljust(0x30, b"\0") + bytes(self._uuid) + struct.pack(">I", 1)
        self._block(self._journal, body.ljust(1024, b"\0"))
        node = Node(
            stat.S_IFREG | 0o600, size=_JOURNAL_BLOCKS * BLOCK,
            extents=[(self._journal, _JOURNAL_BLOCKS)],
        )  # fmt: skip
        return self._inode(node, 1)

    def _bookkeeping(self, inodes: set[int], directories: Sequence[int]) -> None:
        """Write the bitmaps, the group descriptors and the superblock."""
        taken = [bytearray(BLOCK) for _ in range(self._groups)]
        for first, count in self._used:
            for group, start, end in _by_group(first, count):
                _set_bits(taken[group], start, end)
        descriptors = bytearray()
        free_blocks = free_inodes = 0
        numbers = inodes | set(range(1, _FIRST))
        in_group = [0] * self._groups
        of_group = [bytearray(BLOCK) for _ in range(self._groups)]
        for number in numbers:
            group, index = divmod(number - 1, _INODES_PER_GROUP)
            of_group[group][index // 8] |= 1 << index % 8
            in_group[group] += 1
        dirs_in = [0] * self._groups
        for number in directories:
            dirs_in[(number - 1) // _INODES_PER_GROUP] += 1
        for group in range(self._groups):
            free = GROUP - int.from_bytes(taken[group], "little").bit_count()
            lacking = _INODES_PER_GROUP - in_group[group]
            free_blocks += free
            free_inodes += lacking
            _set_bits(of_group[group], _INODES_PER_GROUP, GROUP)
            self._block(self._bitmaps + group, bytes(taken[group]))
            self._block(self._bitmaps + self._groups + group, bytes(of_group[group]))
            descriptors += struct.pack(
                "<IIIHHHH12x", self._bitmaps + group, self._bitmaps + self._groups + group,
                self._tables + group * _TABLE, free, lacking, dirs_in[group], 0,
            )  # fmt: skip
        self._block(1, bytes(descriptors))
        os.pwrite(self._file.fileno(), self._superblock(free_blocks, free_inodes), 1024)

    def _superblock(self, free_blocks: int, free_inodes: int) -> bytes:
        block = bytearray(1024)
        flex = (self._groups - 1).bit_length()
        place, _ = self._extents([(self._journal, _JOURNAL_BLOCKS)])
        backup = place.ljust(60, b"\0") + struct.pack("<II", 0, _JOURNAL_BLOCKS * BLOCK)
        inodes = self._groups * _INODES_PER_GROUP
        for offset, form, values in (
            (0x00, "<IIIII", (inodes, self._end, 0, free_blocks, free_inodes)),
            (0x14, "<III", (0, 2, 2)),  # first data block, sizes of a block and of a cluster
            (0x20, "<III", (GROUP, GROUP, _INODES_PER_GROUP)),
            (0x34, "<HhHHHH", (0, -1, 0xEF53, 1, 1, 0)),  # mounts, magic, clean, on errors go on
            (0x40, "<III", (0, 0, 0)),
            (0x4C, "<I", (1,)),  # dynamic revision
            (0x54, "<IHH", (_FIRST, _INODE, 0)),
            (0x5C, "<III", (_COMPATIBLE, _INCOMPATIBLE, _READ_ONLY)),
            (0x68, "16s16s", (bytes(self._uuid), self._label)),
            (0xE0, "<I", (_JOURNAL,)),
            (0xEC, "16sBB", (hashlib.sha256(self._uuid).digest()[:16], 1, 1)),  # half MD4; backup
            (0x100, "<I", (0x0C,)),  # default mount options: user_xattr, acl
            (0x10C, "68s", (backup,)),
            (0x15C, "<HH", (_EXTRA, _EXTRA)),
            (0x160, "<I", (0x1,)),  # directory hashes use signed characters
            (0x174, "B", (flex,)),
        ):
            struct.pack_into(form, block, offset, *values)
        return bytes(block)


def _leaves(extents: Sequence[Extent]) -> list[bytes]:
    leaves, logical = [], 0
    for first, count in extents:
        leaves.append(struct.pack("<IHHI", logical, count, first >> 32, first & 0xFFFF_FFFF))
        logical += count
    return leaves


def _entry_blocks(entries: Sequence[tuple[int, bytes, int]]) -> Iterator[bytes]:
    """Yield the blocks of a directory with these entries: inode, name and type."""
    block = bytearray()
    last = 0
    for number, name, kind in entries:
        size = 8 + len(name) + 3 & ~3
        if len(block) + size > BLOCK:
            struct.pack_into("<H", block, last + 4, BLOCK - last)
            yield bytes(block.ljust(BLOCK, b"\0"))
            block = bytearray()
        last = len(block)
        block += struct.pack("<IHBB", number, size, len(name), kind) + name.ljust(size - 8, b"\0")
    struct.pack_into("<H", block, last + 4, BLOCK - last)
    yield bytes(block.ljust(BLOCK, b"\0"))


def _attributes(attributes: dict[str, bytes], room: int) -> bytes:
    """Return the extended attributes of an inode; those that find no room there are left out."""
    heads, values = b"", b""
    end = room - 4
    for name, value in sorted(attributes.items()):
        for prefix, index in _PREFIXES:
            if name.startswith(prefix):
                short = name.removeprefix(prefix).encode(errors="surrogateescape")
                size = 16 + len(short) + 3 & ~3
                padded = value + bytes(-len(value) % 4)
                if len(heads) + size + 4 + len(values) + len(padded) > end:
                    continue
                values = padded + values
                place = end - len(values)
                head = struct.pack("<BBHIII", len(short), index, place, 0, len(value), 0)
                heads += (head + short).ljust(size, b"\0")
    if not heads:
        return b""
    return struct.pack("<I", 0xEA020000) + heads.ljust(end - len(values), b"\0") + values


def _by_group(first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Yield the parts of a run of blocks: the group, and the first and the last but one bit."""
    while count:
        group, start = divmod(first, GROUP)
        part = min(count, GROUP - start)
        yield group, start, start + part
        first += part
        count -= part


def _set_bits(bitmap: bytearray, start: int, end: int) -> None:
    whole = -(-start // 8), end // 8
    if whole[0] < whole[1]:
        bitmap[whole[0] : whole[1]] = b"\xff" * (whole[1] - whole[0])
        bits = itertools.chain(range(start, whole[0] * 8), range(whole[1] * 8, end))
    else:
        bits = itertools.chain(range(start, end))
    for bit in bits:
        bitmap[bit // 8] |= 1 << bit % 8
