"""Unpacks Debian packages into a tree of files, with the database of dpkg that says so.

The result is what `dpkg --unpack` leaves: the packages' files are there, and `dpkg --configure -a`,
which runs in a guest, runs their scripts.  The database's format is dpkg's own: lib/dpkg/dump.c and
infodb-format.c of dpkg.
"""

import hashlib
import io
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ringlet.errors import ImageError
from ringlet.images.deb import fields, open_data, read_control
from ringlet.images.ext4 import Ext4Writer
from ringlet.images.tarball import add_tar
from ringlet.images.tree import Node, Tree

_DATABASE: Final = "var/lib/dpkg"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_NOT_KEPT: Final = ("control", "conffiles.new")


class Unpacker:
    """Unpacks packages one after the other.  Its methods raise ImageError."""

    def __init__(self, tree: Tree, writer: Ext4Writer) -> None:
        self._tree = tree
        self._writer = writer
        self._stanzas: dict[str, str] = {}

    def add(self, deb: Path) -> None:
        """Unpack `deb`."""
        control = read_control(deb)
        text = control.get("control", b"").decode(errors="replace").strip()
        stanza = fields(text)
        name = stanza.get("Package", "")
        if not _NAME.fullmatch(name):
            raise ImageError(f"{deb.name}: this package does not say its name")
        paths: list[str] = []
        with open_data(deb) as source:
            add_tar(
                source, deb.name, self._tree, self._writer,
                seen=lambda path, _node: paths.append(path),
            )  # fmt: skip
        listed = "".join(f"/{path}\n" if path else "/.\n" for path in paths)
        whole = f"{name}:amd64" if stanza.get("Multi-Arch") == "same" else name
        info = f"{_DATABASE}/info/{whole}"
        self.file(f"{info}.list", listed.encode())
        for kind, content in control.items():
            if kind not in _NOT_KEPT:
                script = kind in ("preinst", "postinst", "prerm", "postrm", "config")
                self.file(f"{info}.{kind}", content, 0o755 if script else 0o644)
        first, _, rest = text.partition("\n")
        conffiles = control.get("conffiles", b"").decode(errors="replace").split("\n")
        self._stanzas[name] = "\n".join(
            [first, "Status: install ok unpacked", rest, *self._conffiles(conffiles)]
        )

    def finish(self) -> None:
        """Write the list of the packages' states."""
        text = "".join(f"{stanza}\n\n" for _, stanza in sorted(self._stanzas.items()))
        self.file(f"{_DATABASE}/status", text.encode())
        self.file(f"{_DATABASE}/available", b"")
        self.file(f"{_DATABASE}/info/format", b"1\n")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file of root's."""
        node = Node(stat.S_IFREG | mode, size=len(content))
        node.extents = self._writer.store(io.BytesIO(content), len(content))
        self._tree.add(path, node)

    def _conffiles(self, lines: Iterable[str]) -> list[str]:
        paths = [line for line in lines if line.startswith("/")]
        found = [f" {path} {self._hash(path)}" for path in paths]
        return ["Conffiles:", *found] if found else []

    def _hash(self, path: str) -> str:
        node = self._tree.find(path, follow=True)
        content = self._writer.load(node.extents, node.size) if node is not None else b""
        return hashlib.md5(content, usedforsecurity=False).hexdigest()
