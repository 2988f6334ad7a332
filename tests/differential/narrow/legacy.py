"""Ringlet outside IA-32e mode: protected mode with paging off, with two levels, and with PAE.

The guest is that of `tests.differential.guest` with gates, a task state segment and page tables of
this mode; the supervisor's pages are at `kernel` + their physical addresses.
"""
from __future__ import annotations

import struct
from enum import Enum

from ringlet.vcpu.processor import Processor
from tests.differential import guest, layout, segments
from tests.differential.departure import Departure
from tests.differential.engine_ringlet import RingletRunner
from tests.differential.layout import EXEC, PAGE, WRITE
from tests.differential.program import Outcome

_PF = 14
_FETCH = 0x10
_CR0 = 0x0001_0033              # WP NE ET MP PE
_PG = 1 << 31
_CR4 = 0x0004_0600              # OSXSAVE OSXMMEXCPT OSFXSR
_PAE = 1 << 5
_NXE = 1 << 11
_P, _RW, _US, _NX = 1, 2, 4, 1 << 63
_AREAS = tuple(a for a in layout.AREAS.values() if a.end <= 1 << 32)
_EDGE = layout.AREAS["edge32"]
_STACKED = 24                   # bytes of an exception's frame with an error code and SS:ESP
_CODE, _DATA = 0x08, 0x18       # of the supervisor


class Paging(Enum):
    """How linear addresses become physical ones."""

    OFF = "off"
    TWO_LEVELS = "two levels"
    PAE = "PAE"


def _pages(kernel: int) -> list[tuple[int, int, int]]:
    """(linear, physical, flags) of every page; NX among the flags."""
    out = [(kernel + page, page, _P | _RW) for page in range(0, guest.PML4, PAGE)]
    for area in _AREAS:
        flags = _P | _US | (_RW if area.prot & WRITE else 0) | (0 if area.prot & EXEC else _NX)
        out += [(area.linear + at, guest.IMAGE + area.offset + at, flags)
                for at in range(0, area.size, PAGE)]
    return out


def _two_levels(memory: bytearray, kernel: int) -> None:
    root, free = guest.PML4, guest.PML4 + PAGE
    for linear, physical, flags in _pages(kernel):
        at = root + 4 * (linear >> 22)
        if not memory[at] & _P:
            struct.pack_into("<I", memory, at, free | _P | _RW | _US)
            free += PAGE
        table = struct.unpack_from("<I", memory, at)[0] & -PAGE
        struct.pack_into("<I", memory, table + 4 * (linear >> 12 & 1023),
                         physical | flags & ~_NX)


def _pae(memory: bytearray, kernel: int) -> None:
    root, free = guest.PML4, guest.PML4 + PAGE
    for linear, physical, flags in _pages(kernel):
        at = root + 8 * (linear >> 30)
        for shift, entry in ((21, _P), (12, _P | _RW | _US)):
            if not memory[at] & _P:
                struct.pack_into("<Q", memory, at, free | entry)
                free += PAGE
            table = struct.unpack_from("<Q", memory, at)[0] & -PAGE
            at = table + 8 * (linear >> shift & 511)
        struct.pack_into("<Q", memory, at, physical | flags)


def memory(paging: Paging, kernel: int) -> bytes:
    """Guest physical memory from 0, up to and with the image."""
    out = bytearray(guest.memory())
    out[guest.PML4:guest.IMAGE] = bytes(guest.IMAGE - guest.PML4)
    for vector in range(256):
        handler = kernel + guest.HANDLERS + guest.HANDLER_SIZE * vector
        rights = 0xEE if vector in (3, 4) else 0x8E
        struct.pack_into("<HHBBH", out, guest.IDT + 8 * vector, handler & 0xFFFF, _CODE, 0,
                         rights, handler >> 16)
    out[guest.TSS:guest.TSS + 0x68] = bytes(0x68)
    struct.pack_into("<II", out, guest.TSS + 4, kernel + guest.STACK_TOP, _DATA)
    struct.pack_into("<H", out, guest.TSS + 102, 0x68)
    if paging is Paging.TWO_LEVELS:
        _two_levels(out, kernel)
    elif paging is Paging.PAE:
        _pae(out, kernel)
    return bytes(out)


class LegacyRunner(RingletRunner):
    """Runs programs of 16- and 32-bit code at CPL 3 on one Processor outside IA-32e mode."""

    def __init__(self, paging: Paging, timeout: float = 10.0, *, exact: bool = False) -> None:
        self._paging = paging
        self._edge = bytearray(layout.BASE_IMAGE[_EDGE.offset:][:PAGE])
        self._kernel = 0 if paging is Paging.OFF else 0xC000_0000
        super().__init__(timeout, exact=exact)
        self.name = f"ringlet, paging {paging.value}"
        self.departs = Departure.NONE

    def _new_processor(self) -> Processor:
        off = self._paging is Paging.OFF
        size = layout.STACK.end + (1 << 20) if off else guest.RAM_SIZE
        p = Processor(size, speculate=not self._exact)
        p.attach_memory(self._read_edge, self._write_edge)
        content = memory(self._paging, self._kernel)
        p.write_phys(0, content[:guest.IMAGE] if off else content)
        if off:
            for area in _AREAS:
                if area is not _EDGE:
                    p.write_phys(area.linear, layout.BASE_IMAGE[area.offset:][:area.size])
        pae = self._paging is Paging.PAE
        p.set("efer", _NXE if pae else 0)
        p.set("cr4", _CR4 | (_PAE if pae else 0))
        p.set("xcr0", guest.XCR0)
        p.set("cr0", _CR0 | (0 if off else _PG))
        p.set("cr3", 0 if off else guest.PML4)
        p.set("cr2", 0)
        p.set("dr7", 0x400)
        p.set("dr6", 0xFFFF0FF0)
        p.set_table("gdtr", self._kernel + guest.GDT, guest.GDT_LIMIT)
        p.set_table("idtr", self._kernel + guest.IDT, 0x7FF)
        p.set_segment(6, guest.LDT_SELECTOR, self._kernel + guest.LDT,
                      8 * len(segments.TABLE) - 1, 0x82)
        p.set_segment(7, guest.TSS_SELECTOR, self._kernel + guest.TSS, 0x67, 0x8B)
        return p

    def _write(self, offset: int, data: bytes) -> None:
        if self._paging is not Paging.OFF:
            super()._write(offset, data)
            return
        area = next(a for a in layout.AREAS.values() if a.offset <= offset < a.offset + a.size)
        if area is _EDGE:
            self._edge[offset - area.offset:offset - area.offset + len(data)] = data
        elif area.end < _EDGE.end:
            self.processor.write_phys(area.linear + offset - area.offset, data)

    def _image(self) -> bytes:
        if self._paging is not Paging.OFF:
            return super()._image()
        out = bytearray(layout.BASE_IMAGE)
        for area in _AREAS:
            out[area.offset:area.offset + area.size] = self._edge if area is _EDGE \
                else self.processor.read_phys(area.linear, area.size)
        return bytes(out)

    def _read_edge(self, phys: int, size: int) -> int:
        """Answer a read of the end of 4 GiB, which without paging is a device."""
        at = phys - _EDGE.linear
        return int.from_bytes(self._edge[at:at + size], "little")

    def _write_edge(self, phys: int, size: int, value: int) -> None:
        at = phys - _EDGE.linear
        self._edge[at:at + size] = value.to_bytes(size, "little")

    def _vector(self, rip: int) -> int | None:
        return guest.vector_of(rip - self._kernel + guest.KERNEL)

    def _frame(self, vector: int) -> tuple[int, tuple[int, ...]]:
        words = struct.unpack("<6I", self.processor.read_phys(guest.STACK_TOP - _STACKED, _STACKED))
        return words[0] if vector in guest.ERROR_CODE_VECTORS else 0, words[1:]

    def lacks(self, native: Outcome) -> str | None:
        """Pages that fault, or that are not executable."""
        if self._paging is Paging.OFF and native.vector == _PF:
            return "without paging there are no page faults"
        if self._paging is Paging.TWO_LEVELS and native.vector == _PF and native.error & _FETCH:
            return "two levels have no bit that forbids execution"
        return None
