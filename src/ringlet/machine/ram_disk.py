"""Finds places for the initial RAM disk, or for Multiboot's modules, and loads them.

`--initrd` names one file.  For Multiboot it may be a list as for QEMU, `FILE[ TEXT],FILE[ TEXT]`,
if there is no file of this whole name; each file is then a module, with its part of the list as its
text.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ringlet.config import format_size
from ringlet.errors import ConfigError, ProgramError
from ringlet.machine import address_map as at
from ringlet.machine import e820
from ringlet.machine.cpu import Cpu
from ringlet.machine.files import copy_to_memory, length_of, open_regular
from ringlet.machine.kernel import Kernel, Module, too_little_memory

PAGE: Final = 4096
_INITRD: Final = "an initial RAM disk"
_PER_MODULE: Final = 48
_MOST_TEXT: Final = 16384
"""What is told of modules, with the bytes around each text, has to fit below BOOT_INFO_END."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or its contents, of `size` bytes; `text` is what a module is told of itself."""

    content: Path | bytes
    size: int
    text: bytes

    @property
    def name(self) -> str:
        """The name in messages."""
        return str(self.content) if isinstance(self.content, Path) else "the guest"


def sources(kernel: Kernel, initrd: Path | bytes | None) -> tuple[Source, ...]:
    """Return what `initrd` names for `kernel`.

    Raises ProgramError and ConfigError.
    """
    if initrd is None:
        return ()
    if isinstance(initrd, bytes):
        return (Source(initrd, len(initrd), b"initrd"),)
    if not kernel.start.takes_modules or _exists(initrd):
        return (_source(initrd, os.fsencode(initrd)),)
    texts = [text.strip() for text in str(initrd).split(",")]
    room = sum(len(os.fsencode(text)) + _PER_MODULE for text in texts)
    if room > _MOST_TEXT:
        raise ConfigError(
            f"the list of modules has {len(os.fsencode(initrd))} bytes for {len(texts)} modules; "
            "give fewer modules or shorter texts"
        )
    return tuple(_source(Path(text.partition(" ")[0]), os.fsencode(text)) for text in texts)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # it is too long for a name
        return False


def _source(path: Path, text: bytes) -> Source:
    with open_regular(path, _INITRD) as file:
        return Source(path, length_of(file), text)


def total_size(found: Sequence[Source]) -> int:
    """Return how many bytes of whole pages they take."""
    return sum(-(-source.size // PAGE) * PAGE for source in found)


def places(kernel: Kernel, found: Sequence[Source]) -> list[int]:
    """Return their addresses, the last of them as high as possible.

    Raises ProgramError, and ConfigError if the RAM is too small.
    """
    addresses: list[int] = []
    for source in reversed(found):
        address = _place(kernel, source)
        addresses.insert(0, address)
        kernel = replace(kernel, initrd_limit=min(kernel.initrd_limit, address))
    return addresses


def load(cpu: Cpu, kernel: Kernel, found: Sequence[Source]) -> tuple[Module, ...]:
    """Copy them to their places.  Raises ProgramError and ConfigError."""
    loaded = []
    for source, address in zip(found, places(kernel, found), strict=True):
        if isinstance(source.content, bytes):
            cpu.write_phys(address, source.content)
        else:
            with open_regular(source.content, _INITRD) as file:
                copy_to_memory(file, 0, source.size, cpu, address)
        loaded.append(Module(address, source.size, source.text))
    return tuple(loaded)


def _place(kernel: Kernel, source: Source) -> int:
    size = source.size
    if not size:
        raise ProgramError(f"{source.name}: is empty; give {_INITRD}")
    for start, end in _rooms(kernel):
        address = (end - size) // PAGE * PAGE
        if address >= start:
            return address
    what = f"{source.name}: {_INITRD} of {format_size(size)}"
    pages = -(-size // PAGE) * PAGE
    least = -(-kernel.end // PAGE) * PAGE + pages
    limit = min(at.DEVICE_HOLE, kernel.initrd_limit)
    if kernel.initrd_anywhere:
        if least > at.DEVICE_HOLE:
            least = at.DEVICE_HOLE + pages
    elif least > limit:
        raise ProgramError(f"{what} is too large: this kernel needs it below {format_size(limit)}")
    raise too_little_memory(what, least, kernel.memory_size)


def _rooms(kernel: Kernel) -> Iterator[tuple[int, int]]:
    """Yield the ranges that may hold the initial RAM disk, the best first."""
    low, high = e820.ram_ends(kernel.memory_size)
    yield kernel.end, min(low, kernel.initrd_limit)
    if kernel.initrd_anywhere:
        yield kernel.end, low
        yield at.REST_OF_RAM, high
