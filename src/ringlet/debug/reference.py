"""The reference processor for comparisons: Unicorn, which is QEMU's translator without a machine.

Unicorn runs innocuous instructions on copies of guest pages, so that the guest does not see its
writes.  It requests each page when it first touches it.

16- and 32-bit code of all modes runs on a Unicorn in 32-bit protected mode.  Innocuous instructions
see of a segment its base and its size only, and a GDT that Unicorn reads in a page of its own gives
it those.  Unicorn does not check limits and rights: where the guest faults there is nothing to
compare.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import unicorn
from unicorn import unicorn_const as uc
from unicorn import x86_const as x

from ringlet.config import PAGE_SIZE

GPRS: Final = tuple(
    "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
)  # fmt: skip
SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")
"""In the processor's order."""
_FS, _GS = 4, 5
_ADDRESS: Final = (1 << 64) - 1
_POOL: Final = 1 << 24
_PAGES: Final = 256
_FLAGS: Final = 0xCD7
"""The flags of 16- and 32-bit code that innocuous instructions use, and bit 1."""
_GDT: Final = 0x1000
"""Linear address of the GDT of that Unicorn, while it loads segment registers."""
STOP: Final = 0
"""The linear address at which Unicorn stops; it runs no instruction there."""


class Segment(NamedTuple):
    """What innocuous instructions see of a segment: its base and its D or B bit."""

    base: int
    big: bool


@dataclass(frozen=True, slots=True)
class State:
    """Registers: general ones in the processor's order, RIP, RFLAGS, and all vectors together.

    16- and 32-bit code has eight general registers and vectors.  `segments` are in the order of
    `SEGMENTS`; 64-bit code has bases of FS and GS only.
    """

    gpr: tuple[int, ...]
    rip: int
    rflags: int
    xmm: tuple[int, ...] = ()
    segments: tuple[Segment, ...] = ()


class Reference(ABC):
    """Unicorn with copies of the guest's pages; `read(linear)` returns a page's bytes or None."""

    def __init__(
        self, read: Callable[[int], bytes | None], mode: int, names: tuple[str, ...], vectors: int
    ) -> None:
        self._read = read
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, mode)
        self._uc.ctl_set_cpu_model(x.UC_CPU_X86_EPYC_ROME)
        self._uc.ctl_set_tlb_mode(uc.UC_TLB_VIRTUAL)
        self._uc.mem_map(_POOL, _PAGES * PAGE_SIZE)
        self._uc.hook_add(uc.UC_HOOK_TLB_FILL, self._fill)
        self._uc.hook_add(uc.UC_HOOK_MEM_WRITE, self._wrote)
        self._numbers: list[int] = [getattr(x, f"UC_X86_REG_{name.upper()}") for name in names]
        self._xmm = [getattr(x, f"UC_X86_REG_XMM{i}") for i in range(vectors)]
        self._frames: dict[int, int] = {}
        self._originals: dict[int, bytes] = {}
        self._writes: set[tuple[int, int]] = set()

    @abstractmethod
    def _load_segments(self, segments: tuple[Segment, ...]) -> None:
        """Load the segment registers; the pages that this touches are forgotten."""

    @abstractmethod
    def _start(self, count: int) -> None:
        """Run `count` instructions."""

    @property
    def _rip(self) -> int:
        return self._numbers[-2]

    def begin(self, state: State) -> None:
        """Begin with the registers of `state` and the guest's current memory."""
        self._originals.clear()
        self._load_segments(state.segments)
        self._again(state)

    def _again(self, state: State) -> None:
        self._frames.clear()
        self._writes.clear()
        self._uc.ctl(uc.UC_CTL_TLB_FLUSH, uc.UC_CTL_IO_WRITE)
        self._uc.ctl_flush_tb()
        for number, value in zip(
            self._numbers, (*state.gpr, state.rip, state.rflags), strict=True
        ):
            self._uc.reg_write(number, value)
        for number, value in zip(self._xmm, state.xmm, strict=False):
            self._uc.reg_write(number, value)

    def run(self, count: int) -> int | None:
        """Run `count` more instructions and return RIP, or None if one of them faults."""
        try:
            self._start(count)
        except unicorn.UcError:
            return None
        return int(self._uc.reg_read(self._rip))

    def rerun(self, state: State, count: int) -> None:
        """Run the first `count` instructions again, with the memory at the time of `begin`."""
        self._again(state)
        if count:
            self.run(count)

    def state(self, *, vectors: bool) -> State:
        """Return the current registers."""
        *gpr, rip, flags = (int(self._uc.reg_read(number)) for number in self._numbers)
        xmm = tuple(int(self._uc.reg_read(number)) for number in self._xmm) if vectors else ()
        return State(tuple(gpr), rip, flags, xmm)

    def written(self) -> dict[int, bytes]:
        """Return the current contents of the written memory, by linear address."""
        return {
            address: bytes(self._byte(address + i) for i in range(size))
            for address, size in sorted(self._writes)
        }

    def _byte(self, linear: int) -> int:
        frame = self._frames[linear & _ADDRESS & ~(PAGE_SIZE - 1)]
        return int(self._uc.mem_read(frame + linear % PAGE_SIZE, 1)[0])

    def _fill(self, _: object, linear: int, access: int, entry: Any, data: object) -> bool:
        page = linear & _ADDRESS & ~(PAGE_SIZE - 1)
        if page not in self._frames:
            if page not in self._originals:
                original = self._read(page)
                if original is None or len(self._originals) >= _PAGES:
                    return False
                self._originals[page] = original
            frame = _POOL + len(self._frames) * PAGE_SIZE
            self._uc.mem_write(frame, self._originals[page])
            self._frames[page] = frame
        entry.paddr = self._frames[page]
        entry.perms = uc.UC_PROT_ALL
        return True

    def _wrote(
        self, _: object, access: int, address: int, size: int, value: int, data: object
    ) -> None:
        # The pool holds the frames in the order of `_frames`.
        page = list(self._frames)[(address - _POOL) // PAGE_SIZE]
        self._writes.add((page + address % PAGE_SIZE, size))


class WideReference(Reference):
    """Unicorn for 64-bit code."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        super().__init__(read, unicorn.UC_MODE_64, (*GPRS, "rip", "rflags"), 16)

    def _load_segments(self, segments: tuple[Segment, ...]) -> None:
        if segments:
            self._uc.reg_write(x.UC_X86_REG_FS_BASE, segments[_FS].base)
            self._uc.reg_write(x.UC_X86_REG_GS_BASE, segments[_GS].base)

    def _start(self, count: int) -> None:
        self._uc.emu_start(self._uc.reg_read(self._rip), STOP, count=count)


class NarrowReference(Reference):
    """Unicorn for 16- and 32-bit code."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        names = (*(f"e{name[1:]}" for name in GPRS[:8]), "eip", "eflags")
        super().__init__(self._page, unicorn.UC_MODE_32, names, 8)
        self._guest = read
        self._gdt = b""
        self._loading = False

    def _page(self, linear: int) -> bytes | None:
        if self._loading and linear == _GDT:
            return self._gdt.ljust(PAGE_SIZE, b"\0")
        return self._guest(linear)

    def _load_segments(self, segments: tuple[Segment, ...]) -> None:
        gdt = b"".join(
            _descriptor(segment, code=name == "cs").to_bytes(8, "little")
            for name, segment in zip(SEGMENTS, segments, strict=True)
        )
        if bytes(8) + gdt == self._gdt:
            return  # innocuous instructions load no segments
        self._gdt = bytes(8) + gdt
        self._loading = True
        self._frames.clear()
        self._uc.ctl(uc.UC_CTL_TLB_FLUSH, uc.UC_CTL_IO_WRITE)
        self._uc.reg_write(x.UC_X86_REG_GDTR, (0, _GDT, len(self._gdt) - 1, 0))
        for index, name in enumerate(SEGMENTS, 1):
            self._uc.reg_write(getattr(x, f"UC_X86_REG_{name.upper()}"), index * 8)
        self._loading = False
        self._originals.clear()

    def _again(self, state: State) -> None:
        flags = state.rflags & _FLAGS
        super()._again(State(state.gpr, state.rip, flags, state.xmm, state.segments))

    def _start(self, count: int) -> None:
        self._uc.emu_start(self._uc.reg_read(self._rip), STOP, count=count)


def _descriptor(segment: Segment, *, code: bool) -> int:
    """Return a descriptor of 4 GiB, accessed, with DPL 0 (SDM 3A 3.4.5)."""
    base = segment.base & 0xFFFF_FFFF
    return (
        0xFFFF
        | (base & 0xFF_FFFF) << 16
        | (0x9B if code else 0x93) << 40
        | (0xCF if segment.big else 0x8F) << 48
        | base >> 24 << 56
    )
