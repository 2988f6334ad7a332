"""An independent model of four-level paging in plain Python (SDM 3A 4.5-4.7)."""

from __future__ import annotations

from dataclasses import dataclass

from ringlet_probes.mmu import Probe
from tests.unit.mmu.guest import NX, PF_I, PF_P, PF_RSVD, PS, A, D, P, U, W

FRAME = 0x000F_FFFF_FFFF_F000
PHYSICAL_BITS = 46


@dataclass
class Translation:
    """A successful walk."""

    phys: int
    write: bool
    user: bool
    nx: bool
    accessed: bool
    dirty: bool
    size: int


def walk(probe: Probe, root: int, linear: int) -> Translation | int:
    """Return the translation of an address, or the P and RSVD bits of its page fault."""
    table = root
    write = user = accessed = True
    nx = False
    for level in (4, 3, 2, 1):
        shift = 3 + 9 * level
        at = table + (linear >> shift & 511) * 8
        entry = probe.entry(at) if probe.has_ram(at) else (1 << 64) - 1
        if not entry & P:
            return 0
        large = level == 1 or bool(entry & PS)
        reserved = (1 << 52) - (1 << PHYSICAL_BITS)
        if level == 4:
            reserved |= PS
        elif large:
            reserved |= (1 << shift) - (1 << 13) if level > 1 else 0
        if entry & reserved:
            return PF_P | PF_RSVD
        write &= bool(entry & W)
        user &= bool(entry & U)
        accessed &= bool(entry & A)
        nx |= bool(entry & NX)
        if large and level < 4:
            base = entry & FRAME & ~((1 << shift) - 1)
            offset = linear & (1 << shift) - 1
            dirty = bool(entry & D)
            return Translation(base + offset, write, user, nx, accessed, dirty, 1 << shift)
        table = entry & FRAME
    raise AssertionError("a walk ends at level 1")


def fault(probe: Probe, root: int, linear: int, access: int) -> int | None:
    """Return the error code of the page fault that an access raises, or None if it is allowed.

    CR0.WP and EFER.NXE are set, SMEP and SMAP clear.
    """
    found = walk(probe, root, linear)
    if isinstance(found, int):
        return found | access
    if (access & U and not found.user) or (access & W and not found.write):
        return PF_P | access
    if access & PF_I and found.nx:
        return PF_P | access
    return None
