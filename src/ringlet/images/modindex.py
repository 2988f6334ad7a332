"""Writes the indexes with which kmod finds modules, as depmod does: modules.dep.bin and the like.

An index is a trie of keys with values, in big-endian numbers: libkmod/libkmod-index.h of kmod.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_MAGIC: Final = 0xB007F457
_VERSION: Final = 0x0002_0001
_PREFIX: Final = 0x8000_0000
_VALUES: Final = 0x4000_0000
_CHILDREN: Final = 0x2000_0000


@dataclass(slots=True)
class _Node:
    prefix: bytes = b""
    values: list[tuple[int, bytes]] = field(default_factory=list)
    children: dict[int, "_Node"] = field(default_factory=dict)


def index(entries: Iterable[tuple[str, str]]) -> bytes:
    """Return the index of these keys and values; of equal keys, the first has the priority."""
    by_key: dict[bytes, list[tuple[int, bytes]]] = {}
    for priority, (key, value) in enumerate(entries):
        by_key.setdefault(key.encode(), []).append((priority, value.encode()))
    out = bytearray(12)
    root = _write(_trie(by_key), out)
    struct.pack_into(">III", out, 0, _MAGIC, _VERSION, root)
    return bytes(out)


def _trie(by_key: Mapping[bytes, list[tuple[int, bytes]]]) -> _Node:
    root = _Node()
    for key in sorted(by_key):
        node, rest = root, key
        while rest:
            child = node.children.get(rest[0])
            if child is None:
                node.children[rest[0]] = _Node(rest[1:], by_key[key])
                break
            tail = rest[1:]
            common = _common(child.prefix, tail)
            if common < len(child.prefix):
                # Split the child: what follows its shared start becomes a node below it.
                lower = _Node(child.prefix[common + 1 :], child.values, child.children)
                split = child.prefix[common]
                child.prefix, child.values = child.prefix[:common], []
                child.children = {split: lower}
            node, rest = child, tail[common:]
        else:
            node.values = by_key[key]
    return root


def _common(one: bytes, other: bytes) -> int:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _write(node: _Node, out: bytearray) -> int:
    """Write `node` after all below it; return its offset with its flags."""
    first, last = min(node.children, default=0), max(node.children, default=-1)
    offsets = [0] * (last - first + 1)
    for byte, child in sorted(node.children.items()):
        offsets[byte - first] = _write(child, out)
    offset = len(out)
    if node.prefix:
        out += node.prefix + b"\0"
        offset |= _PREFIX
    if offsets:
        out += bytes((first, last)) + struct.pack(f">{len(offsets)}I", *offsets)
        offset |= _CHILDREN
    if node.values:
        out += struct.pack(">I", len(node.values))
        for priority, value in node.values:
            out += struct.pack(">I", priority) + value + b"\0"
        offset |= _VALUES
    return offset
