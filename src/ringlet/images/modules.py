"""The modules of a kernel's package: what they need of each other, and a disk image of all of them.

Debian makes the lists that modprobe reads when it installs a kernel.  A guest's kernel is not
installed in the guest, so they are made here: `modules_image` is a disk for the guest's
/lib/modules, whatever the guest's own files are.  An initial RAM disk carries those modules that it
needs before that (`boot_archive`).
"""

import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.errors import ImageError
from ringlet.images.compression import DAMAGED, MEMORY, decompressed
from ringlet.images.cpio import CpioWriter
from ringlet.images.deb import open_data
from ringlet.images.ext4 import GROUP_BYTES, Ext4Writer
from ringlet.images.modindex import index
from ringlet.images.tree import Node, Tree

BOOT: Final = (
    "virtio_pci", "virtio_blk", "ext4", "virtio_console", "virtiofs", "overlay", "virtio_net",
    "virtio_rng", "virtio_balloon", "vmw_vsock_virtio_transport", "virtio_scsi", "isofs",
)  # fmt: skip
"""The modules that an initial RAM disk may need; those that are in the kernel are left out."""
BOOT_DIRECTORY: Final = "ringlet/modules"

_KINDS: Final = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")
LARGEST: Final = 64 << 20
"""Bytes of a module that are read at most."""
_LISTS: Final = ("modules.order", "modules.builtin", "modules.builtin.modinfo")


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its path below /lib/modules/RELEASE, and what its .modinfo section says."""

    path: str
    depends: tuple[str, ...]
    aliases: tuple[str, ...]
    soft: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name, as `lsmod` shows it."""
        return name_of(self.path)


class Modules:
    """All modules of the kernel `release` in its package `deb`.  Raises ImageError."""

    def __init__(self, deb: Path, release: str) -> None:
        self.release = release
        self._contents: dict[str, bytes] = {}
        self._lists: dict[str, bytes] = {}
        self._found: dict[str, Module] = {}
        self._read(deb)

    def order(self, wanted: Iterable[str]) -> list[Module]:
        """Return these modules and all that they depend on, in the order to load them.

        One that the package does not have is part of the kernel itself or not there at all.  Those
        that a module only asks for, by an alias perhaps, as ext4 does for crc32c, are among them.
        """
        loaded: dict[str, Module] = {}

        def load(name: str, depth: int) -> None:
            for module in self._called(name):
                if module.name in loaded or depth > len(self._found):
                    continue
                for other in (*module.depends, *_wanted_before(module)):
                    load(other, depth + 1)
                loaded[module.name] = module

        for name in wanted:
            load(name, 0)
        return list(loaded.values())

    def _called(self, name: str) -> list[Module]:
        """Return the module with a name, or else those with it as an alias."""
        module = self._found.get(name.replace("-", "_"))
        if module is not None:
            return [module]
        return [other for other in self._found.values() if name in other.aliases]

    def boot_archive(self, wanted: Iterable[str] = BOOT) -> bytes:
        """Return a cpio archive of these modules, uncompressed, with a list of the order."""
        archive = CpioWriter()
        archive.directory("ringlet")
        archive.directory(BOOT_DIRECTORY)
        order = self.order(wanted)
        for module in order:
            content = _plain(module.path, self._content(module.path))
            archive.file(f"{BOOT_DIRECTORY}/{module.name}.ko", content)
        needs = "".join(
            f"{name.replace('-', '_')} {' '.join(m.name for m in self.order([name]))}\n"
            for name in wanted
        )
        archive.file(f"{BOOT_DIRECTORY}/order", needs.encode())
        return archive.contents()

    def write_image(self, path: Path) -> None:
        """Write a disk image to `path`, whose root is /lib/modules."""
        size = sum(map(len, self._contents.values()))
        writer = Ext4Writer(path, size + GROUP_BYTES, label="modules", seed=self.release.encode())
        try:
            tree = Tree()
            for name, content in {**self._contents, **self._lists, **self._indexes()}.items():
                node = Node(stat.S_IFREG | 0o644, size=len(content))
                node.extents = writer.store(io.BytesIO(content), len(content))
                tree.add(f"{self.release}/{name}", node)
            writer.finish(tree)
        finally:
            writer.close()

    # --- inside

    def _content(self, path: str) -> bytes:
        return self._contents[path]

    def _read(self, source: Path) -> None:
        deb = source
        prefix = f"lib/modules/{self.release}/"
        try:
            with open_data(deb) as data, tarfile.open(fileobj=data, mode="r|") as archive:
                for member in archive:
                    _, found, path = member.name.partition(prefix)
                    if not found or not member.isfile():
                        continue
                    if not path.endswith(_KINDS) and path not in _LISTS:
                        continue
                    content = archive.extractfile(member)
                    assert content is not None
                    kept = self._lists if path in _LISTS else self._contents
                    kept[path] = content.read(LARGEST)
        except (tarfile.TarError, *DAMAGED) as error:
            raise ImageError(f"{deb.name}: cannot unpack this package: {error}") from error
        for path, packed in self._contents.items():
            self._found[name_of(path)] = _module(path, _plain(path, packed))

    def _indexes(self) -> Mapping[str, bytes]:
        ordered = self._in_order()
        dependencies = {module.name: self._line(module) for module in ordered}
        aliases = [(alias, module.name) for module in ordered for alias in module.aliases]
        soft = [f"softdep {module.name} {text}" for module in ordered for text in module.soft]
        builtin = self._lists.get("modules.builtin", b"").decode().split()
        own = list(_builtin(self._lists.get("modules.builtin.modinfo", b"")))
        return {
            "modules.dep": _lines(dependencies.values()),
            "modules.dep.bin": index(dependencies.items()),
            "modules.alias": _lines(f"alias {alias} {name}" for alias, name in aliases),
            "modules.alias.bin": index((_key(alias), name) for alias, name in aliases),
            "modules.symbols.bin": index(()),
            "modules.builtin.bin": index((name_of(path), "") for path in builtin),
            "modules.builtin.alias.bin": index(
                (_key(text), name) for name, key, text in own if key == "alias"
            ),
            "modules.softdep": _lines(soft),
            "modules.devname": _lines(_devices(ordered)),
        }

    def _in_order(self) -> list[Module]:
        order = self._lists.get("modules.order", b"").decode().split()
        places = {name_of(path): place for place, path in enumerate(order)}
        return sorted(self._found.values(), key=lambda m: (places.get(m.name, len(places)), m.path))

    def _line(self, module: Module) -> str:
        # modprobe loads them from the last to the first.
        needs = [other.path for other in self.order([module.name])[-2::-1]]
        return f"{module.path}:{''.join(f' {path}' for path in needs)}"


def _module(path: str, data: bytes) -> Module:
    facts: dict[str, list[str]] = {}
    for item in _section(path, data, b".modinfo").split(b"\0"):
        key, _, value = item.decode(errors="replace").partition("=")
        facts.setdefault(key, []).append(value)
    depends = [name for value in facts.get("depends", []) for name in value.split(",") if name]
    aliases, soft = facts.get("alias", ()), facts.get("softdep", ())
    return Module(path, tuple(depends), tuple(aliases), tuple(soft))


# By the class of an ELF file: where its table of sections is said, and the form of that; where the
# size, the number and the names of the sections are; the form of the beginning of each.
_ELF: Final = {1: (0x20, "<I", 0x2E, "<IIIIII"), 2: (0x28, "<Q", 0x3A, "<IIQQQQ")}


def _section(path: str, data: bytes, wanted: bytes) -> bytes:
    """Return a section of an ELF file of x86-64 or of the 80386."""
    try:
        at, address, counts, head_form = _ELF[data[4]]
        (table,) = struct.unpack_from(address, data, at)
        size, count, names = struct.unpack_from("<HHH", data, counts)
        heads = [struct.unpack_from(head_form, data, table + n * size) for n in range(count)]
        texts = heads[names][4]
        for head in heads:
            start = texts + head[0]
            if data[start : start + len(wanted) + 1] == wanted + b"\0":
                return data[head[4] : head[4] + head[5]]
    except (struct.error, IndexError, KeyError):
        pass
    raise ImageError(f"{path}: this kernel module has no {wanted.decode()}")


def _plain(path: str, data: bytes) -> bytes:
    """Return the uncompressed module."""
    try:
        if path.endswith(".xz"):
            # Parts of Debian's modules have a check that is not there to be checked.
            return lzma.decompress(data, memlimit=MEMORY)
        if path.endswith(".gz"):
            return gzip.decompress(data)
        if path.endswith(".zst"):
            with decompressed(io.BytesIO(data), path) as plain:
                return plain.read(LARGEST)
    except (lzma.LZMAError, EOFError, OSError) as error:
        raise ImageError(f"{path}: this kernel module is damaged: {error}") from error
    return data


def _builtin(data: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield name, key and value of each fact about modules that the kernel itself contains."""
    for item in data.decode(errors="replace").split("\0"):
        whole, found, value = item.partition("=")
        name, _, key = whole.partition(".")
        if found:
            yield name, key, value


def _devices(ordered: Sequence[Module]) -> Iterator[str]:
    """Yield a line for each device file that exists before its module is loaded."""
    for module in ordered:
        names = [a.removeprefix("devname:") for a in module.aliases if a.startswith("devname:")]
        for alias in module.aliases:
            kind, _, numbers = alias.partition("-major-")
            major, _, minor = numbers.partition("-")
            if names and kind in ("char", "block") and major.isdecimal() and minor.isdecimal():
                yield f"{module.name} {names[0]} {kind[0]}{major}:{minor}"


def _wanted_before(module: Module) -> list[str]:
    """Return the modules that `module` would like to find loaded ("pre:" of its soft ones)."""
    wanted: list[str] = []
    for text in module.soft:
        before, _, _ = text.partition("post:")
        wanted += before.replace("pre:", " ").split()
    return wanted


def name_of(path: str) -> str:
    """Return the name of the module in the file `path`, as `lsmod` shows it."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _key(alias: str) -> str:
    """Return `alias` as modprobe looks it up: with '_' for '-', but not within brackets."""
    parts = re.split(r"(\[[^]]*\])", alias)
    return "".join(p if p.startswith("[") else p.replace("-", "_") for p in parts)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
