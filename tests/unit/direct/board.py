"""A processor whose code of CPL 3 runs directly, with the selectors that Linux has."""

from __future__ import annotations

from ringlet.core.state import Exit
from ringlet.direct.process import CONTROL, DirectProcess
from ringlet.direct.zygote import PROGRAM, Zygote, symbols
from tests.unit.direct.guest import SIGSEGV, move, store
from tests.unit.vcpu.board import CODE, GDT, PDPT, Board

USER_CODE_32, USER_DATA = 0x23, 0x2B
CALLED, RETURN = 0x18000, 0x18100
"""The handler of SYSCALL, a HLT; and the kernel's SYSRET."""
ROOTS = 0x200000
"""PML4s of address spaces with the same pages."""
SYSCALL = b"\x0f\x05"
JUMP_R11 = b"\x41\xff\xe3"
IF = 0x202
UNUSABLE = 1 << 16
_FLAT_CODE, _FLAT_DATA = 0x00AFFB000000FFFF, 0x00CFF3000000FFFF
_FLAT_CODE_32 = 0x00CFFB000000FFFF


def suicide() -> bytes:
    """Code whose direct process is killed: it hands over with a frame that cannot be one."""
    return (
        store(CONTROL, SIGSEGV) + store(CONTROL + 24, 0)
        + move(11, symbols(PROGRAM)["hand_over"]) + JUMP_R11
    )  # fmt: skip


class DirectBoard(Board):
    """A `Board` at CPL 3 in direct execution, at once and for all address spaces."""

    def __init__(self, zygote: Zygote, limit: int = 4, *, auto: bool = False) -> None:
        self.flags = IF
        super().__init__(3)
        self.zygote = zygote
        self.made: list[int] = []
        self.spaces = 0
        self.poke(GDT + USER_CODE_32 - 3, _FLAT_CODE_32, _FLAT_DATA, _FLAT_CODE)
        self.p.set_table("gdtr", GDT, 0x37)
        self.p.set("star", 0x23 << 48 | 8 << 32)
        self.p.set("lstar", CALLED)
        self.p.write_phys(CALLED, b"\xf4")
        self.p.write_phys(RETURN, b"\x48\x0f\x07")
        self.p.execute_directly(
            self.make, limit, always=not auto, cpuid=not zygote.cpuid_faults
        )

    def make(self, ram: list[int]) -> DirectProcess:
        """Make a direct process for the processor."""
        process = self.zygote.make(ram)
        self.made.append(process.pid)
        return process

    def enter(self, cpl: int) -> None:
        """Put the processor where the kernel returns to code of CPL 3 at `CODE`."""
        super().enter(0)
        for i in (0, 3, 4, 5):
            self.p.set_segment(i, 0, 0, 0, UNUSABLE)
        self.set(rip=RETURN, rcx=CODE, r11=self.flags, gs_base=0)

    def new_space(self) -> None:
        """Load an address space that was never loaded before, with the same pages."""
        root = ROOTS + 0x1000 * self.spaces
        self.spaces += 1
        self.poke(root, PDPT | 7)
        self.p.set("cr3", root)

    def user(self, code: bytes) -> int:
        """Run code of CPL 3 from its start to where the kernel halts; return the exit."""
        self.place(code)
        self.enter(3)
        return self.go()

    def calls(self, code: bytes) -> bool:
        """Run code of CPL 3; tell whether it came to a system call."""
        return self.user(code) == Exit.EXIT_HLT and self.get("rip") == CALLED + 1

    def count(self, name: str) -> int:
        """Return a counter of direct execution."""
        return int(self.p.counters()[f"direct_{name}"])
