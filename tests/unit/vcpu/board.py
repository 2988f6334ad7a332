"""A processor in 64-bit code with page tables, gates that halt, and a device beyond its RAM."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ringlet.core.state import Exit
from ringlet.vcpu.processor import Processor

RAM = 4 << 20
PML4, PDPT, PD, PT, GDT, IDT, TSS = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000
DEVICE_PD, DEVICE_PT = 0x8000, 0x9000
HANDLERS = 0x10000
KERNEL_STACK = 0x20000
STACK = 0x24000
CODE = 0x30000
DATA = 0x40000
DATA_SIZE = 0x10000
HOLE = 0x80000
"""Not mapped."""
READ_ONLY = 0x82000
SUPERVISOR = 0x84000
MIXED = 0x86000
"""The last page of RAM before one of the device, in linear addresses."""
DEVICE = 0x40000000
"""Linear address of two pages."""
DEVICE_PHYS = 0xFED00000
GS_BASE = DATA + 0x8000

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
NAMES = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
CF, PF, AF, ZF, SF, TF, IF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
RF = 0x10000
DE, DB, UD, GP, PAGE_FAULT, STACK_FAULT, XM = 0, 1, 6, 13, 14, 12, 19
HLT = b"\xf4"


def _code_segment(dpl: int) -> int:
    return 0x00AF9B000000FFFF | dpl << 45


def _data_segment(dpl: int) -> int:
    return 0x00CF93000000FFFF | dpl << 45


@dataclass
class Device:
    """A device: bytes at physical addresses, and a record of the accesses to them."""

    memory: dict[int, int] = field(default_factory=dict)
    reads: list[tuple[int, int]] = field(default_factory=list)
    writes: list[tuple[int, int, int]] = field(default_factory=list)

    def set(self, offset: int, data: bytes) -> None:
        """Set the bytes at `offset` to `data`."""
        self.memory.update({offset + i: byte for i, byte in enumerate(data)})

    def get(self, offset: int, size: int) -> bytes:
        """Return the bytes at `offset`."""
        return bytes(self.memory.get(offset + i, 0) for i in range(size))

    def read(self, phys: int, size: int) -> int:
        """Answer a read of the processor."""
        self.reads.append((phys - DEVICE_PHYS, size))
        return int.from_bytes(self.get(phys - DEVICE_PHYS, size), "little")

    def write(self, phys: int, size: int, value: int) -> None:
        """Take a write of the processor."""
        self.writes.append((phys - DEVICE_PHYS, size, value))
        self.set(phys - DEVICE_PHYS, value.to_bytes(size, "little"))


class Board:
    """A `Processor` at CPL 0 or 3, its RAM mapped to the same linear addresses, and a device."""

    def __init__(self, cpl: int = 0, *, speculate: bool = True, keep: bool = False) -> None:
        self.p = p = Processor(RAM, speculate=speculate, keep=keep)
        self.device = Device()
        self.poke(PML4, PDPT | 7)
        self.poke(PDPT, PD | 7, DEVICE_PD | 7)
        self.poke(PD, PT | 7)
        self.poke(DEVICE_PD, DEVICE_PT | 7)
        for page in range(0, 0x200000, 0x1000):
            self.map(page, page | 7)
        self.map(HOLE, 0)
        self.map(READ_ONLY, READ_ONLY | 5)
        self.map(SUPERVISOR, SUPERVISOR | 3)
        self.map(MIXED + 0x1000, DEVICE_PHYS | 7)
        self.poke(DEVICE_PT, DEVICE_PHYS | 7, DEVICE_PHYS | 0x1007)
        self.poke(GDT + 8, _code_segment(0), _data_segment(0), _data_segment(3), _code_segment(3))
        for vector in range(32):
            handler = HANDLERS + 16 * vector
            self.poke(IDT + 16 * vector, handler & 0xFFFF | 8 << 16 | 0x8E << 40 | 1 << 48, 0)
            p.write_phys(handler, HLT)
        p.write_phys(TSS + 4, struct.pack("<Q", KERNEL_STACK))
        p.set_table("gdtr", GDT, 0x27)
        p.set_table("idtr", IDT, 0x1FF)
        p.set_segment(7, 0x28, TSS, 0x67, 0x8B)
        p.set("cr3", PML4)
        p.set("cr4", 0x6A8 | 1 << 18)
        p.set("xcr0", 7)
        p.set("efer", 0xD01)
        p.set("cr0", 0x80050033)
        self.enter(cpl)

    def enter(self, cpl: int) -> None:
        """Put the processor at `CODE` at a privilege."""
        p = self.p
        dpl = cpl << 5
        code, data = (0x20 | 3, 0x18 | 3) if cpl else (8, 0x10)
        p.set_segment(1, code, 0, 0xFFFFFFFF, 0xA09B | dpl)
        for i in (0, 2, 3, 4, 5):
            p.set_segment(i, data, 0, 0xFFFFFFFF, 0xC093 | dpl)
        p.set("cpl", cpl)
        p.set("gs_base", GS_BASE)
        p.set("rip", CODE)
        p.set("rsp", STACK)
        p.set("rflags", 2)

    # --- memory and registers

    def map(self, linear: int, entry: int) -> None:
        """Write a leaf of the page table."""
        self.poke(PT + (linear >> 12) * 8, entry)

    def poke(self, phys: int, *values: int) -> None:
        """Write quadwords."""
        self.p.write_phys(phys, struct.pack(f"<{len(values)}Q", *values))

    def peek(self, phys: int) -> int:
        """Read a quadword."""
        return int.from_bytes(self.p.read_phys(phys, 8), "little")

    def set(self, **values: int) -> None:
        """Set registers."""
        for name, value in values.items():
            self.p.set(name, value & (1 << 64) - 1)

    def get(self, name: str) -> int:
        """Read a register."""
        return int(self.p.get(name))

    def registers(self) -> dict[str, int]:
        """Return the general registers, RIP and RFLAGS."""
        return {name: self.get(name) for name in (*NAMES, "rip", "rflags")}

    def vector(self, number: int) -> bytes:
        """Return a YMM register."""
        image = bytes(self.p.get_xsave())
        return image[160 + 16 * number :][:16] + image[576 + 16 * number :][:16]

    def set_vectors(self, **values: bytes) -> None:
        """Set YMM registers by name, zero-extended."""
        image = bytearray(self.p.get_xsave())
        image[512] |= 7
        for name, value in values.items():
            number = int(name[3:])
            whole = value.ljust(32, b"\0")
            image[160 + 16 * number : 176 + 16 * number] = whole[:16]
            image[576 + 16 * number : 592 + 16 * number] = whole[16:]
        self.p.set_xsave(bytes(image))

    # --- running

    def place(self, code: str | bytes) -> int:
        """Put an instruction and a HLT at `CODE`, set RIP there, and return the length."""
        if isinstance(code, str):
            code = bytes.fromhex(code)
        self.p.write_phys(CODE, code + HLT)
        self.p.set("rip", CODE)
        return len(code)

    def emulate(self, code: str | bytes) -> None:
        """Perform one instruction by the general emulator; the device answers."""
        self.place(code)
        kind = self.p.emulate()
        while kind != Exit.EXIT_NONE:
            kind = self._answer(kind)

    def emulate_to_its_end(self, code: str | bytes) -> None:
        """Perform one instruction to its end by the general emulator, one repetition per call."""
        self.place(code)
        start = self.get("rip")
        while self.get("rip") == start:
            assert self.p.emulate() == Exit.EXIT_NONE

    def run(self, code: str | bytes) -> int:
        """Run from an instruction to the next HLT, or to an exit that is not for a device."""
        self.place(code)
        return self.go()

    def go(self) -> int:
        """Run to the next HLT, or to an exit that is not for a device."""
        while True:
            kind = int(self.p.run())
            if kind == Exit.EXIT_MMIO_READ:
                info = self.p.exit_info()
                self.p.complete(self.device.read(info.phys, info.size))
            elif kind == Exit.EXIT_MMIO_WRITE:
                info = self.p.exit_info()
                self.device.write(info.phys, info.size, info.data)
            else:
                return kind

    def _answer(self, kind: int) -> int:
        info = self.p.exit_info()
        if kind == Exit.EXIT_MMIO_READ:
            return int(self.p.emulate(self.device.read(info.phys, info.size)))
        assert kind == Exit.EXIT_MMIO_WRITE, kind
        self.device.write(info.phys, info.size, info.data)
        return int(self.p.emulate())

    def raised(self) -> int | None:
        """Return the vector at whose handler RIP is, or None."""
        rip = self.get("rip")
        if HANDLERS <= rip < HANDLERS + 512:
            return (rip - HANDLERS) // 16
        return None
