"""A guest without a processor: page tables in guest RAM, accesses as translated code makes them.

`Guest.load` and `Guest.store` go to the host address that translated code would use.  Whether the
host lets them is asked with read(2) and write(2) on a pipe, which answer EFAULT where the
processor would fault; a refusal is taken to the MMU as the signal handler takes it.
"""

from __future__ import annotations

import ctypes
import os

from ringlet_probes.mmu import Probe

P, W, U, PWT, PCD, A, D, PS, G = 1, 2, 4, 8, 16, 32, 64, 128, 256
NX = 1 << 63
OK, FAULT, MMIO = 0, 1, 2
READ, WRITE, USER, FETCH = 0, 2, 4, 16
PF_P, PF_W, PF_U, PF_RSVD, PF_I = 1, 2, 4, 8, 16
GP, PF = 13, 14

CR0 = 0x80010001  # PG, WP, PE
CR0_WP = 1 << 16
CR4_PSE, CR4_PAE, CR4_PGE = 1 << 4, 1 << 5, 1 << 7
EFER_LONG = 0x500
EFER_NXE = 1 << 11

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30
DIRECT = 0xFFFF_8880_0000_0000  # where a kernel would map all of RAM

# Most tests map these addresses.
AT = 0x0000_1234_5678_9000
KERNEL = 0xFFFF_FFFF_8100_0000
DATA = 8 * MIB
OTHER = 9 * MIB

_libc = ctypes.CDLL(None, use_errno=True)


def peek(host: int, size: int) -> bytes | None:
    """Return host memory, or None if reading it faults."""
    out, into = os.pipe()
    try:
        if _libc.write(into, ctypes.c_void_p(host), ctypes.c_size_t(size)) != size:
            return None
        return os.read(out, size)
    finally:
        os.close(out)
        os.close(into)


def poke(host: int, data: bytes) -> bool:
    """Store to host memory; False if that faults."""
    out, into = os.pipe()
    try:
        os.write(into, data)
        return bool(_libc.read(out, ctypes.c_void_p(host), ctypes.c_size_t(len(data))) == len(data))
    finally:
        os.close(out)
        os.close(into)


def is_canonical(address: int) -> bool:
    return address >> 47 in (0, 0x1FFFF)


class Tables:
    """Four-level page tables in guest RAM."""

    def __init__(self, probe: Probe, root: int, next_table: list[int]) -> None:
        self.probe = probe
        self.root = root
        self.next_table = next_table

    def where(self, linear: int, level: int = 1, flags: int = P | W | U | A) -> int:
        """Make the tables above a level, and return the physical address of its entry."""
        table = self.root
        for above in range(4, level, -1):
            at = table + (linear >> (3 + 9 * above) & 511) * 8
            entry = self.probe.entry(at)
            if not entry & P:
                entry = self.next_table[0] | flags
                self.next_table[0] += PAGE
                self.probe.set_entry(at, entry)
            table = entry & 0x000F_FFFF_FFFF_F000
        return table + (linear >> (3 + 9 * level) & 511) * 8

    def map(self, linear: int, phys: int, flags: int = P | W | U, level: int = 1) -> int:
        """Map a leaf, and return the guest physical address of its entry."""
        at = self.where(linear, level)
        self.probe.set_entry(at, phys | flags | (PS if level > 1 else 0))
        return at

    def map_range(self, linear: int, phys: int, pages: int, flags: int = P | W | U) -> None:
        for i in range(pages):
            self.map(linear + i * PAGE, phys + i * PAGE, flags)


class Guest:
    """A probe in long mode with one address space loaded."""

    def __init__(
        self,
        ram: int = 64 * MIB,
        efer: int = EFER_LONG | EFER_NXE,
        cr4: int = CR4_PAE | CR4_PGE,
        maps_limit: int = 0,
        away: bool = False,
    ) -> None:
        self.probe = Probe(ram, maps_limit=maps_limit, away=away)
        self.next_table = [1 * MIB]
        self.efer = efer
        self.tables = self.new_tables()
        self.set(cr0=CR0, cr3=self.tables.root, cr4=cr4, efer=efer)

    def set(self, *, cr0: int, cr3: int, cr4: int, efer: int, cpl: int = 0) -> None:
        self.probe.set_registers(cr0, cr3, cr4, efer, cpl)
        self.probe.flush_all()

    def new_tables(self, upper_of: Tables | None = None) -> Tables:
        """Return an address space with an empty lower half and the upper half of `upper_of`."""
        root = self.next_table[0]
        self.next_table[0] += PAGE
        tables = Tables(self.probe, root, self.next_table)
        if upper_of is not None:
            for i in range(256, 512):
                self.probe.set_entry(root + i * 8, self.probe.entry(upper_of.root + i * 8))
        return tables

    def fill(self, phys: int, text: bytes) -> bytes:
        """Put recognisable contents in a page of RAM."""
        data = (text * (PAGE // len(text) + 1))[:PAGE]
        assert self.probe.write_phys(phys, data)
        return data

    def reach(self, linear: int, write: bool = False, size: int = 1) -> int:
        """Make an access possible as the signal handler would: OK, FAULT, MMIO, -1 (a guard)."""
        probe = self.probe
        for _ in range(4):
            host = probe.host(linear, probe.cpl == 3)
            if not is_canonical(host):
                result = probe.slot_fault(linear, WRITE if write else READ)
            elif write:
                seen = peek(host, size)
                if seen is not None and poke(host, seen):
                    return OK
                result, at = probe.shadow_fault(host, WRITE)
                assert result == -1 or at == linear
            elif peek(host, size) is not None:
                return OK
            else:
                result, at = probe.shadow_fault(host, READ)
                assert result == -1 or at == linear
            if result != OK:
                return int(result)
        raise AssertionError(f"access to {linear:#x} faults again and again")

    def load(self, linear: int, size: int = 8) -> bytes | None:
        """Return what translated code would read, or None if it faults."""
        if self.reach(linear, size=size) != OK:
            return None
        return peek(self.probe.host(linear, self.probe.cpl == 3), size)

    def store(self, linear: int, data: bytes) -> bool:
        if self.reach(linear, write=True, size=len(data)) != OK:
            return False
        return poke(self.probe.host(linear, self.probe.cpl == 3), data)

    def shown(self, linear: int, size: int = 8) -> bytes | None:
        """Return the contents of the window without handling a fault."""
        host = self.probe.host(linear, self.probe.cpl == 3)
        return peek(host, size) if is_canonical(host) else None

    def writable(self, linear: int) -> bool:
        """Whether the window allows a store without a fault."""
        host = self.probe.host(linear, self.probe.cpl == 3)
        seen = peek(host, 1) if is_canonical(host) else None
        return seen is not None and poke(host, seen)


def reload(guest: Guest) -> None:
    """Load CR3 with its present value."""
    guest.probe.load_cr3(guest.tables.root)
