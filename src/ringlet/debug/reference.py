"""The reference processor for comparisons: Unicorn, which is QEMU's translator without a machine.

Unicorn runs innocuous 64-bit instructions on copies of guest pages, so that the guest does not see
its writes.  It requests each page when it first touches it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import unicorn
from unicorn import unicorn_const as uc
from unicorn import x86_const as x

from ringlet.config import PAGE_SIZE

GPRS: Final = tuple(
    "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
)  # fmt: skip
_ADDRESS: Final = (1 << 64) - 1
_POOL: Final = 1 << 24
_PAGES: Final = 256
_NUMBERS: Final = [getattr(x, f"UC_X86_REG_{name.upper()}") for name in (*GPRS, "rip", "rflags")]
_XMM: Final = [getattr(x, f"UC_X86_REG_XMM{i}") for i in range(16)]


@dataclass(frozen=True, slots=True)
class State:
    """Registers: general ones in the processor's order, RIP, RFLAGS, and all vectors together."""

    gpr: tuple[int, ...]
    rip: int
    rflags: int
    xmm: tuple[int, ...] = ()
    fs_base: int = 0
    gs_base: int = 0


class Reference:
    """Unicorn with copies of the guest's pages; `read(linear)` returns a page's bytes or None."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        self._read = read
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_cpu_model(x.UC_CPU_X86_EPYC_ROME)
        self._uc.ctl_set_tlb_mode(uc.UC_TLB_VIRTUAL)
        self._uc.mem_map(_POOL, _PAGES * PAGE_SIZE)
        self._uc.hook_add(uc.UC_HOOK_TLB_FILL, self._fill)
        self._uc.hook_add(uc.UC_HOOK_MEM_WRITE, self._wrote)
        self._frames: dict[int, int] = {}
        self._originals: dict[int, bytes] = {}
        self._writes: set[tuple[int, int]] = set()

    def begin(self, state: State) -> None:
        """Begin with the registers of `state` and the guest's current memory."""
        self._originals.clear()
        self._again(state)

    def _again(self, state: State) -> None:
        self._frames.clear()
        self._writes.clear()
        self._uc.ctl(uc.UC_CTL_TLB_FLUSH, uc.UC_CTL_IO_WRITE)
        self._uc.ctl_flush_tb()
        for number, value in zip(_NUMBERS, (*state.gpr, state.rip, state.rflags), strict=True):
            self._uc.reg_write(number, value)
        for number, value in zip(_XMM, state.xmm, strict=False):
            self._uc.reg_write(number, value)
        self._uc.reg_write(x.UC_X86_REG_FS_BASE, state.fs_base)
        self._uc.reg_write(x.UC_X86_REG_GS_BASE, state.gs_base)

    def run(self, count: int) -> int | None:
        """Run `count` more instructions and return RIP, or None if one of them faults."""
        try:
            self._uc.emu_start(self._uc.reg_read(x.UC_X86_REG_RIP), 0, count=count)
        except unicorn.UcError:
            return None
        return int(self._uc.reg_read(x.UC_X86_REG_RIP))

    def rerun(self, state: State, count: int) -> None:
        """Run the first `count` instructions again, with the memory at the time of `begin`."""
        self._again(state)
        if count:
            self.run(count)

    def state(self, *, vectors: bool) -> State:
        """Return the current registers."""
        *gpr, rip, flags = (int(self._uc.reg_read(number)) for number in _NUMBERS)
        xmm = tuple(int(self._uc.reg_read(number)) for number in _XMM) if vectors else ()
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
