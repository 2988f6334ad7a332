"""Random guests against the model: arbitrary changes of tables, flushes as the SDM requires.

A translation may be stale until the guest flushes it; after the flush nothing stale may be left,
in no window and in no remembered fetch.  At no time is a page of code writable in any window, and
a fault is always the one the guest's tables give.
"""

from __future__ import annotations

import bisect
from pathlib import Path
from random import Random

import pytest

from tests.unit.mmu.guest import (
    CR0,
    CR4_PAE,
    CR4_PGE,
    DIRECT,
    EFER_LONG,
    EFER_NXE,
    FAULT,
    FETCH,
    MIB,
    MMIO,
    NX,
    OK,
    PAGE,
    USER,
    WRITE,
    A,
    D,
    G,
    Guest,
    P,
    Tables,
    U,
    W,
    is_canonical,
)
from tests.unit.mmu.model import Translation, fault, walk

RAM = 32 * MIB
FRAMES = [16 * MIB + i * PAGE for i in range(64)]
LARGE = [16 * MIB, 18 * MIB, 20 * MIB]
LOW = [0x0000_0040_0000_0000 + i * PAGE for i in range(6)]
LOW += [0x0000_0040_001F_E000 + i * PAGE for i in range(4)]  # across two tables
LOW += [0x0000_7FFF_FFFF_8000 + i * PAGE for i in range(4)]
HIGH = [DIRECT + i * PAGE for i in range(6)] + [DIRECT + 2 * MIB + i * PAGE for i in range(3)]
HIGH += [0xFFFF_FFFF_8100_0000 + i * PAGE for i in range(4)]
ALL = LOW + HIGH


class HostMaps:
    """Return the mappings of guest RAM in the arena, as the host lists them now."""

    def __init__(self, guest: Guest) -> None:
        counters = guest.probe.counters()
        low, high = counters["arena"], counters["arena"] + counters["arena_size"]
        self.spans: list[tuple[int, int, str, int]] = []
        with Path("/proc/self/maps").open() as maps:
            for line in maps:
                span, rights, offset, *_ = line.split()
                start, end = (int(part, 16) for part in span.split("-"))
                if low <= start < high and rights[0] == "r":
                    self.spans.append((start, end, rights, int(offset, 16)))

    def at(self, host: int) -> tuple[int, bool] | None:
        """Return the RAM offset mapped at a host address, and whether it is writable."""
        i = bisect.bisect_right(self.spans, host, key=lambda span: span[0]) - 1
        if i < 0 or host >= self.spans[i][1]:
            return None
        start, _, rights, offset = self.spans[i]
        return offset + host - start, rights[1] == "w"

    def writable(self, offset: int) -> bool:
        """Whether a page of RAM is writable in any window."""
        return any(
            rights[1] == "w" and start <= offset < start + high - low
            for low, high, rights, start in self.spans
        )


class RandomGuest:
    """A guest of three address spaces, two of which share their upper half."""

    def __init__(self, seed: int, use_global: bool) -> None:
        self.random = Random(seed)
        self.use_global = use_global
        self.pge = use_global
        self.guest = Guest(RAM, cr4=CR4_PAE | (CR4_PGE if use_global else 0))
        self.probe = self.guest.probe
        first = self.guest.tables
        for linear in HIGH:
            first.map(linear, self.random.choice(FRAMES), P | W)
        self.spaces = [first, self.guest.new_tables(first), self.guest.new_tables()]
        for tables in self.spaces:
            for linear in LOW:
                tables.where(linear)
        for linear in HIGH:
            self.spaces[2].where(linear)
        self.current = first
        self.code: set[int] = set()
        self.fetched: dict[tuple[int, int, bool], int] = {}
        self.full_flush()

    # --- actions of the guest

    def random_leaf(self) -> int:
        flags = P * (self.random.random() < 0.85)
        for bit, chance in ((W, 0.7), (U, 0.6), (A, 0.7), (D, 0.6), (NX, 0.2)):
            if self.random.random() < chance:
                flags |= bit
        if self.use_global and self.random.random() < 0.4:
            flags |= G
        return flags

    def edit_leaf(self) -> None:
        tables = self.random.choice(self.spaces)
        linear = self.random.choice(ALL)
        at = self.leaf_entry(tables, linear)
        if at is None:
            return
        if self.random.random() < 0.3:
            entry = self.probe.entry(at) ^ self.random.choice((P, W, U, A, D, NX))
            self.probe.set_entry(at, entry)
            return
        run = self.random.randrange(len(FRAMES) - 1)
        frame = self.random.choice((FRAMES[run], 0xFEE0_0000, RAM - PAGE))
        if self.random.random() < 0.6:
            frame = FRAMES[ALL.index(linear)]  # contiguous ones, so that runs happen
        self.probe.set_entry(at, frame | self.random_leaf())

    def leaf_entry(self, tables: Tables, linear: int) -> int | None:
        """Return the address of the 4-KiB entry for a linear address, if tables lead to one."""
        table = tables.root
        for level in (4, 3, 2):
            entry = self.probe.entry(table + (linear >> (3 + 9 * level) & 511) * 8)
            if not entry & P or (level < 4 and entry & 0x80):
                return None
            table = entry & 0x000F_FFFF_FFFF_F000
        return table + (linear >> 12 & 511) * 8

    def edit_upper(self) -> None:
        tables = self.random.choice(self.spaces)
        linear = self.random.choice(ALL)
        level = self.random.choice((2, 2, 2, 3, 4))
        table = tables.root
        for above in range(4, level, -1):
            entry = self.probe.entry(table + (linear >> (3 + 9 * above) & 511) * 8)
            if not entry & P or (above < 4 and entry & 0x80):
                return
            table = entry & 0x000F_FFFF_FFFF_F000
        at = table + (linear >> (3 + 9 * level) & 511) * 8
        choice = self.random.random()
        entry = self.probe.entry(at)
        if choice < 0.4:
            self.probe.set_entry(at, entry ^ self.random.choice((P, W, U, A)))
        elif choice < 0.6 and level == 2:
            self.probe.set_entry(at, self.random.choice(LARGE) | 0x80 | self.random_leaf())
        else:
            # A table of its own, holding leftovers of another.
            new = self.guest.next_table[0]
            if new >= 15 * MIB:
                return
            self.guest.next_table[0] += PAGE
            old = self.probe.read_phys(entry & 0x000F_FFFF_FFFF_F000, PAGE)
            if old is not None and not entry & 0x80 and entry & P:
                self.probe.write_phys(new, old)
            self.probe.set_entry(at, new | P | W | U | self.random.choice((0, A)))

    def repair(self) -> None:
        """Give an address tables that allow everything, so that not all accesses fault."""
        tables = self.random.choice(self.spaces)
        linear = self.random.choice(ALL)
        table = tables.root
        for level in (4, 3, 2):
            at = table + (linear >> (3 + 9 * level) & 511) * 8
            entry = self.probe.entry(at)
            if entry & 0x80:
                return
            self.probe.set_entry(at, entry & ~NX | P | W | U)
            table = entry & 0x000F_FFFF_FFFF_F000
        self.probe.set_entry(
            table + (linear >> 12 & 511) * 8,
            FRAMES[ALL.index(linear)] | P | W | U | self.random.choice((0, A, A | D)),
        )

    def touch(self) -> None:
        self.probe.cpl = self.random.choice((0, 0, 3))
        linear = self.random.choice(ALL)
        write = self.random.random() < 0.5
        access = (WRITE if write else 0) | (USER if self.probe.cpl == 3 else 0)
        expected = fault(self.probe, self.current.root, linear, access)
        shown = HostMaps(self.guest).at(self.host(linear, self.probe.cpl == 3))
        result = self.guest.reach(linear, write)
        if result == FAULT:
            assert self.probe.exception[1] == expected
        elif shown is None:
            assert expected is None
            found = walk(self.probe, self.current.root, linear)
            assert isinstance(found, Translation)
            assert (result == MMIO) == (found.phys >= RAM)
            assert found.accessed
            assert found.dirty or not write

    def sweep(self) -> None:
        """Write to pages in sequence, so that some pages are mapped ahead."""
        self.probe.cpl = 3
        for linear in LOW:
            self.guest.reach(linear, write=True)

    def emulate(self) -> None:
        linear = self.random.choice(ALL)
        access = self.random.choice((0, WRITE)) | self.random.choice((0, USER))
        expected = fault(self.probe, self.current.root, linear, access)
        result, phys = self.probe.translate(linear, access)
        assert (result == FAULT) == (expected is not None)
        found = walk(self.probe, self.current.root, linear)
        if result == OK:
            assert isinstance(found, Translation)
            assert found.phys == phys
        elif result == FAULT:
            assert self.probe.exception[1] == expected

    def prefill(self) -> None:
        self.probe.cpl = self.random.choice((0, 3))
        self.probe.prefill(self.random.choice(ALL), self.random.choice((0, WRITE)))

    def fetch(self) -> None:
        self.probe.cpl = self.random.choice((0, 3))
        linear = self.random.choice(ALL)
        access = FETCH | (USER if self.probe.cpl == 3 else 0)
        expected = fault(self.probe, self.current.root, linear, access)
        result, phys = self.probe.fetch(linear)
        self.take_hooks()
        assert (result == FAULT) == (expected is not None)
        if result == OK:
            self.fetched[self.probe.space(linear), linear, self.probe.cpl == 3] = phys
            if self.random.random() < 0.5:
                self.code.add(phys & ~(PAGE - 1))
                self.probe.protect_code(phys)

    # --- flushes

    def load_cr3(self) -> None:
        self.current = self.random.choice(self.spaces)
        self.probe.load_cr3(self.current.root)
        self.take_hooks()
        if not self.pge:
            self.check(ALL)

    def full_flush(self) -> None:
        efer, cr4 = EFER_LONG | EFER_NXE, CR4_PAE
        self.guest.set(cr0=CR0, cr3=self.current.root, cr4=cr4, efer=efer)
        if self.use_global:
            self.guest.set(cr0=CR0, cr3=self.current.root, cr4=cr4 | CR4_PGE, efer=efer)
        self.take_hooks()
        self.check(ALL)

    def invlpg(self) -> None:
        linear = self.random.choice(ALL)
        self.probe.invlpg(linear + self.random.randrange(PAGE))
        self.take_hooks()
        self.check([linear])

    # --- invariants

    def host(self, linear: int, user: bool) -> int:
        host = self.probe.host(linear, user)
        return int(host) if is_canonical(host) else 0

    def take_hooks(self) -> None:
        unmapped, written, dropped = self.probe.hooks()
        for phys in written:
            self.code.discard(phys)
        for linear, pages in unmapped:
            identity = self.probe.space(linear)
            for key in list(self.fetched):
                if key[0] == identity and linear <= key[1] < linear + pages * PAGE:
                    del self.fetched[key]
        for identity in dropped:
            for key in list(self.fetched):
                if key[0] == identity:
                    del self.fetched[key]

    def check(self, linears: list[int]) -> None:
        """Check that no stale mapping of these addresses is left in the current address space."""
        maps = HostMaps(self.guest)
        for linear in linears:
            found = walk(self.probe, self.current.root, linear)
            for user in (False, True):
                shown = maps.at(self.host(linear, user))
                if shown is None:
                    continue
                assert isinstance(found, Translation), f"{linear:#x} is gone but shown"
                assert shown[0] == found.phys
                assert found.accessed
                assert found.user or not user
                assert not shown[1] or (found.write and found.dirty)
            for user in (False, True):
                phys = self.fetched.get((self.probe.space(linear), linear, user))
                if phys is None:
                    continue
                assert isinstance(found, Translation), f"{linear:#x} is gone but was fetched"
                assert found.phys == phys
                assert not found.nx
                assert found.user or not user

    def check_code(self) -> None:
        self.take_hooks()
        maps = HostMaps(self.guest)
        for phys in self.code:
            assert not maps.writable(phys)


OPERATIONS = [
    (RandomGuest.touch, 12),
    (RandomGuest.edit_leaf, 6),
    (RandomGuest.edit_upper, 1),
    (RandomGuest.repair, 4),
    (RandomGuest.fetch, 3),
    (RandomGuest.emulate, 2),
    (RandomGuest.prefill, 2),
    (RandomGuest.sweep, 1),
    (RandomGuest.load_cr3, 3),
    (RandomGuest.invlpg, 3),
    (RandomGuest.full_flush, 1),
]


@pytest.mark.parametrize("use_global", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("seed", range(8))
def test_random_guest(seed: int, use_global: bool) -> None:
    machine = RandomGuest(seed, use_global)
    operations = [operation for operation, _ in OPERATIONS]
    weights = [weight for _, weight in OPERATIONS]

    for operation in machine.random.choices(operations, weights, k=300):
        operation(machine)
        machine.check_code()
    machine.full_flush()

    assert machine.probe.counters()["shadow_pages"] > 20
