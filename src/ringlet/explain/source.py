"""Reads the code to explain: from hexadecimal text, an ELF symbol, or a part of a file."""

import difflib
import os
import re
import stat
import string
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError, ProgramError

DEFAULT_LINEAR: Final = 0x401000
DEFAULT_IP: Final = 0x7C00
"""Of 16-bit code, which has CS at 0: where a boot sector is."""
MAX_BYTES: Final = 1 << 20
"""The most bytes that one listing takes; more would give hundreds of thousands of lines."""

_IDENT_SIZE: Final = 16
_LITTLE_ENDIAN: Final = 1
_EM_386: Final = 3
_EM_X86_64: Final = 62
_MACHINES: Final = {3: "32-bit x86", 40: "ARM", 183: "AArch64", 243: "RISC-V", 8: "MIPS"}
_SHT_SYMTAB: Final = 2
_SHT_NOBITS: Final = 8
_SHT_DYNSYM: Final = 11
_SHF_EXECINSTR: Final = 4
_SHN_UNDEF: Final = 0
_SHN_RESERVED: Final = 0xFF00
_STB_LOCAL: Final = 0
_NO_CODE: Final = frozenset({1, 3, 4, 6})  # STT_OBJECT, _SECTION, _FILE, _TLS


@dataclass(frozen=True, slots=True)
class Code:
    """Guest code: `data` at linear address `linear`; `name` describes its source.

    `bits` is the size of the code in an ELF file of that class.
    """

    name: str
    linear: int
    data: bytes
    bits: int = 64


def from_hex(text: str, linear: int = DEFAULT_LINEAR) -> Code:
    """Return the bytes that hexadecimal digits stand for, in any grouping.  Raises ConfigError."""
    digits = re.sub(r"0x|[\s,:;]", "", text, flags=re.IGNORECASE)
    for digit in digits:
        if digit not in string.hexdigits:
            raise ConfigError(f"--hex: {digit!r} is not a hexadecimal digit")
    if not digits:
        raise ConfigError('--hex: no bytes given; write them like "48 8b 07 c3"')
    if len(digits) % 2:
        raise ConfigError(
            f"--hex: an odd number of digits ({len(digits)}); write two digits for each byte"
        )
    return _limited(Code("hex", linear, bytes.fromhex(digits)))


def from_file(path: Path, offset: int, length: int | None, linear: int = DEFAULT_LINEAR) -> Code:
    """Return `length` bytes at `offset` of a file, or all bytes from there if `length` is None."""
    data = _read(path)
    if not 0 <= offset < len(data):
        raise ConfigError(f"--offset {offset:#x}: {path} has {len(data)} bytes")
    if length is not None and length <= 0:
        raise ConfigError(f"--length {length}: give a positive number of bytes")
    if length is not None and offset + length > len(data):
        raise ConfigError(
            f"--length {length}: {path} has only {len(data) - offset} bytes from offset {offset:#x}"
        )
    end = len(data) if length is None else offset + length
    return _limited(Code(f"{path}+{offset:#x}", linear, data[offset:end]))


def from_symbol(path: Path, name: str, linear: int | None = None) -> Code:
    """Return a function of an ELF file, at its own address unless `linear` is given."""
    elf = _Elf(path, _read(path))
    symbols = list(elf.symbols())
    if not symbols:
        raise ProgramError(
            f"{path}: has no symbols (it is stripped); give the code with --file, --offset "
            "and --length"
        )
    found = [s for s in symbols if s.name == name]
    if not found:
        close = difflib.get_close_matches(name, sorted({s.name for s in symbols}), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        if not elf.has_symtab:
            hint = f" among its dynamic symbols, and its other symbols are stripped{hint}"
        raise ProgramError(f"{path}: has no symbol {name!r}{hint}")
    defined = [s for s in found if s.section]
    if not defined:
        raise ProgramError(f"{path}: does not define {name!r}, only uses it")
    symbol = min(defined, key=lambda s: s.local)
    data = elf.code(symbol, symbols)
    at = symbol.value if linear is None else linear
    return _limited(Code(f"{path}:{name}", at, data, elf.bits))


def _limited(code: Code) -> Code:
    if len(code.data) > MAX_BYTES:
        raise ConfigError(
            f"{code.name}: {len(code.data)} bytes are too many for a listing; "
            f"give a part of at most {MAX_BYTES} bytes"
        )
    return code


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise ProgramError(f"{path}: is {kind}; give a file with code")
        return path.read_bytes()
    except FileNotFoundError:
        raise ProgramError(f"{path}: no such file") from None
    except ValueError:
        raise ProgramError("the file's path contains a zero byte") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ProgramError(f"{path}: cannot be read: {why}") from None


@dataclass(frozen=True, slots=True)
class _Format:
    """One class of ELF files: its machine, the layouts of its headers, and a symbol's fields."""

    bits: int
    machine: int
    header: struct.Struct
    section: struct.Struct
    symbol: struct.Struct
    fields: tuple[str, ...]


_FORMATS: Final = {
    1: _Format(
        32, _EM_386, struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<IIIIIIIIII"),
        struct.Struct("<IIIBBH"), ("name", "value", "size", "info", "other", "section"),
    ),
    2: _Format(
        64, _EM_X86_64, struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ"),
        struct.Struct("<IBBHQQ"), ("name", "info", "other", "section", "value", "size"),
    ),
}  # fmt: skip
"""By EI_CLASS."""


@dataclass(frozen=True, slots=True)
class _Section:
    name_at: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    kind: int
    local: bool
    section: int  # 0: not defined here
    value: int
    size: int


class _Elf:
    """The sections and symbols of an ELF file (System V ABI, "Object Files")."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = data
        if not data.startswith(b"\x7fELF"):
            raise self._error("is not an ELF file; give its code with --file, --offset, --length")
        form = _FORMATS.get(data[4] if len(data) > _IDENT_SIZE else 0, _FORMATS[2])
        if len(data) < form.header.size:
            raise self._error("is truncated: its ELF header is incomplete")
        header = form.header.unpack_from(data)
        ident, kind, machine, _, _, _, table, _, _, _, _, size, count, _ = header
        if machine != form.machine or ident[4] not in _FORMATS or ident[5] != _LITTLE_ENDIAN:
            what = _MACHINES.get(machine, "x32" if machine == _EM_X86_64 else f"machine {machine}")
            raise self._error(f"is for {what}; explain takes code for x86-64 and i386")
        self._format = form
        if not table or not count:
            raise self._error(
                "has no sections (it is stripped); give its code with --file, --offset, --length"
            )
        if size != form.section.size:
            raise self._error("is damaged: its section header entries have the wrong size")
        if table + count * size > len(data):
            raise self._error("is damaged: its section headers lie outside the file")
        self._relocatable = kind == 1
        self._sections = [self._section(table + i * size) for i in range(count)]

    @property
    def bits(self) -> int:
        """Return the size of the code, 32 or 64."""
        return self._format.bits

    @property
    def has_symtab(self) -> bool:
        """Return whether the file has symbols other than the dynamic ones."""
        return any(section.kind == _SHT_SYMTAB for section in self._sections)

    def symbols(self) -> Iterator[_Symbol]:
        """Yield the named symbols of .symtab and .dynsym."""
        for section in self._sections:
            if section.kind not in (_SHT_SYMTAB, _SHT_DYNSYM) or not self._holds(section):
                continue
            if section.link >= len(self._sections) or not self._holds(self._sections[section.link]):
                raise self._error("is damaged: a symbol table has no names")
            names = self._sections[section.link]
            layout = self._format.symbol
            whole = section.size - section.size % layout.size
            raw = self._data[section.offset : section.offset + whole]
            for values in layout.iter_unpack(raw):
                row = dict(zip(self._format.fields, values, strict=True))
                name = self._text(names.offset + row["name"])
                if name:
                    index, info = row["section"], row["info"]
                    section_index = index if _SHN_UNDEF < index < _SHN_RESERVED else 0
                    local = info >> 4 == _STB_LOCAL
                    yield _Symbol(
                        name, info & 15, local, section_index, row["value"], row["size"]
                    )

    def code(self, symbol: _Symbol, symbols: list[_Symbol]) -> bytes:
        """Return the bytes of a defined function."""
        if symbol.section >= len(self._sections):
            raise self._error(f"is damaged: {symbol.name!r} is in no section")
        section = self._sections[symbol.section]
        if not section.flags & _SHF_EXECINSTR or symbol.kind in _NO_CODE:
            raise self._error(f"{symbol.name!r} is data, not code")
        base = 0 if self._relocatable else section.address
        start = symbol.value - base
        size = symbol.size
        if size == 0:
            # Assembly without .size: the function extends to the next symbol.
            later = [
                s.value for s in symbols if s.section == symbol.section and s.value > symbol.value
            ]
            size = min([*later, base + section.size]) - symbol.value
        if (
            section.kind == _SHT_NOBITS
            or not self._holds(section)
            or not 0 <= start < start + size <= section.size
        ):
            raise self._error(f"is damaged: {symbol.name!r} lies outside its section")
        return self._data[section.offset + start : section.offset + start + size]

    def _section(self, at: int) -> _Section:
        values = self._format.section.unpack_from(self._data, at)
        name, kind, flags, address, offset, size, link, *_ = values
        return _Section(name, kind, flags, address, offset, size, link)

    def _holds(self, section: _Section) -> bool:
        return section.offset + section.size <= len(self._data)

    def _text(self, at: int) -> str:
        end = self._data.find(b"\0", at)
        return self._data[at : max(at, end)].decode(errors="replace")

    def _error(self, text: str) -> ProgramError:
        return ProgramError(f"{self._path}: {text}")
