"""Costs of the virtual MMU by itself, in processor time: python bench/virtual_mmu.py.

No signal is delivered here: add what a SIGSEGV costs to the line of the shadow fault.
"""

from __future__ import annotations

from ringlet_probes.mmu import Probe

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30
P, W, U, A, D, PS, G = 1, 2, 4, 32, 64, 128, 256
USER = P | W | U | A | D
KERNEL = P | W | A | D | G
LOW = 0x0000_5555_5555_4000
AREAS = [0x40_0000, LOW, 0x7F12_3400_0000, 0x7F12_3600_0000, 0x7F12_3800_0000, 0x7FFF_FFF0_0000]
DIRECT = 0xFFFF_8880_0000_0000
VMALLOC = 0xFFFF_C900_0000_0000
TOUCHED = 500


class Guest:
    """2 GiB of RAM under a direct map of 2-MiB pages, in long mode."""

    def __init__(self) -> None:
        self.probe = Probe(2 * GIB)
        self.next_table = 64 * MIB
        # Scattered: each frame once, no two in a row.
        count = (GIB - 256 * MIB) // PAGE
        self.frames = [256 * MIB + i * 7919 % count * PAGE for i in range(count)]
        for frame in self.frames[:20000]:
            self.probe.write_phys(frame, b"touched")
        self.root = self.table()
        for i in range(1024):
            self.map(self.root, DIRECT + i * 2 * MIB, i * 2 * MIB | KERNEL | PS, 2)
        for i in range(TOUCHED):
            self.map(self.root, VMALLOC + i * 2 * PAGE, self.frames[i] | KERNEL)
        self.probe.set_registers(0x80010001, self.root, 0xA0, 0xD00, 0)
        self.probe.flush_all()

    def table(self) -> int:
        self.next_table += PAGE
        return self.next_table

    def map(self, root: int, linear: int, entry: int, leaf: int = 1) -> int:
        """Map a page; gives the guest physical address of its entry."""
        table = root
        for level in range(4, leaf, -1):
            at = table + (linear >> (3 + 9 * level) & 511) * 8
            if not self.probe.entry(at):
                self.probe.set_entry(at, self.table() | P | W | U)
            table = self.probe.entry(at) & 0x000F_FFFF_FFFF_F000
        at = table + (linear >> (3 + 9 * leaf) & 511) * 8
        self.probe.set_entry(at, entry)
        return at

    def space(self, first_frame: int) -> int:
        """A process with TOUCHED scattered pages in six areas."""
        root = self.table()
        for i in range(256, 512):
            self.probe.set_entry(root + i * 8, self.probe.entry(self.root + i * 8))
        self.probe.load_cr3(root)
        for i in range(TOUCHED):
            linear = AREAS[i % len(AREAS)] + i // len(AREAS) * PAGE
            self.map(root, linear, self.frames[first_frame + i] | USER)
            self.probe.prefill(linear)
        return root


def report(what: str, nanoseconds: float) -> None:
    print(f"{what:58} {nanoseconds / 1000:8.2f} us")


def main() -> None:
    guest = Guest()
    probe = guest.probe
    for i in range(2):
        probe.prefill(DIRECT + i * GIB)
    for i in range(TOUCHED):
        probe.prefill(VMALLOC + i * 2 * PAGE)

    pages = [LOW + i * PAGE for i in range(1000)]
    entries = [guest.map(guest.root, at, guest.frames[i] | USER) for i, at in enumerate(pages)]
    probe.slot_fault(pages[0])
    report("walk of four levels", probe.time_translate(pages[::10], 1000))
    report("shadow fault, one 4-KiB page filled", probe.time_faults(pages[1:]))
    swap = [guest.frames[0] | USER, guest.frames[5000] | USER]
    report("PTE change, INVLPG, touch", probe.time_invlpg(pages[0], entries[0], swap, 20000))

    roots = [guest.space(2000 + i * TOUCHED) for i in range(32)]
    report(f"CR3 load, same space, {TOUCHED} pages", probe.time_cr3_loads(roots[:1], 5000))
    report(f"CR3 load, 2 spaces of {TOUCHED} pages in turn", probe.time_cr3_loads(roots[:2], 5000))
    report(f"CR3 load, 32 spaces of {TOUCHED} pages in turn", probe.time_cr3_loads(roots, 500))
    report("code page protected in the direct map", probe.time_protect(guest.frames[-200:]))
    report("the same, and in a process", probe.time_protect(guest.frames[2000:2200]))


if __name__ == "__main__":
    main()
