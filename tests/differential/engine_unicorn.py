"""Unicorn (QEMU's translator) as an engine, for trials of the generator and for ring 0.

Unicorn is not exact: `KNOWN_BUGS` lists its known differences from the processor.
"""
from __future__ import annotations

import importlib
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from unicorn import x86_const as x

from tests.differential import guest, layout, xsave
from tests.differential.departure import Departure
from tests.differential.program import SEGMENTS, SYSCALL_VECTOR, Outcome, Program, State, Status

unicorn: Any = importlib.import_module("unicorn")  # its annotations are no use

KNOWN_BUGS = {
    "flags": "flags that the SDM leaves undefined differ from the processor's",
    "error codes": "are not to be had for exceptions",
    "AES/SHA/AVX rounding": "no MXCSR sticky flags in several instructions",
}

_GPR = [getattr(x, f"UC_X86_REG_{n}") for n in (
    "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15").split()]
_YMM = [getattr(x, f"UC_X86_REG_YMM{i}") for i in range(16)]
_ST = [getattr(x, f"UC_X86_REG_FP{i}") for i in range(8)]
_SEGMENT = [getattr(x, f"UC_X86_REG_{n.upper()}") for n in SEGMENTS]
_MSR_EFER, _MSR_STAR, _MSR_LSTAR = 0xC0000080, 0xC0000081, 0xC0000082
_INSTRUCTIONS = 200_000


class UnicornRunner:
    """Runs programs under Unicorn at CPL 3 with the guest's page tables.

    It has no exception delivery: the vector comes from its hook, error codes are 0.
    """

    name = "unicorn"
    departs = Departure.NONE

    def __init__(self) -> None:
        uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        uc.ctl_set_cpu_model(x.UC_CPU_X86_EPYC_ROME)
        uc.mem_map(0, guest.RAM_SIZE)
        uc.mem_write(0, guest.memory())
        uc.reg_write(x.UC_X86_REG_MSR, (_MSR_EFER, guest.EFER))
        uc.reg_write(x.UC_X86_REG_CR4, guest.CR4)
        uc.reg_write(x.UC_X86_REG_CR3, guest.PML4)
        uc.reg_write(x.UC_X86_REG_CR0, guest.CR0)
        uc.reg_write(x.UC_X86_REG_GDTR, (0, guest.KERNEL + guest.GDT, guest.GDT_LIMIT, 0))
        uc.reg_write(x.UC_X86_REG_IDTR, (0, guest.KERNEL + guest.IDT, 0xFFF, 0))
        uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        uc.hook_add(unicorn.UC_HOOK_INSN, self._syscall, aux1=x.UC_X86_INS_SYSCALL)
        self._uc = uc
        # Restored before each program: a pending exception would make the next one a double fault.
        self._fresh = uc.context_save()
        self._vector: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to release."""

    def lacks(self, native: Outcome) -> str | None:
        """Nothing is wanting."""
        del native
        return None

    def reset(self) -> None:
        """Nothing is kept between programs."""

    def run(self, programs: Sequence[Program]) -> list[Outcome]:
        """Run each program from its own fresh memory."""
        return [self._run(p) for p in programs]

    def _interrupt(self, uc: Any, number: int, data: object) -> None:
        self._vector = number
        uc.emu_stop()

    def _syscall(self, uc: Any, data: object) -> None:
        self._vector = SYSCALL_VECTOR
        uc.emu_stop()

    def _run(self, program: Program) -> Outcome:
        uc = self._uc
        uc.mem_write(guest.IMAGE, program.initial_image())
        uc.ctl_flush_tb()
        uc.context_restore(self._fresh)
        self._load(program.state)
        self._vector = None
        note = ""
        status = Status.EVENT
        try:
            uc.emu_start(program.state.rip, 0, count=_INSTRUCTIONS)
            if self._vector is None:
                status = Status.TIMEOUT
        except unicorn.UcError as error:
            note = str(error)
            if error.errno == unicorn.UC_ERR_INSN_INVALID:
                self._vector = 6
            status = Status.EVENT if self._vector is not None else Status.SHUTDOWN
        vector = self._vector if self._vector is not None else 0
        return Outcome(status, vector, 0, uc.reg_read(x.UC_X86_REG_CR2), self._store(),
                       layout.changed_pages(bytes(uc.mem_read(guest.IMAGE, layout.IMAGE_SIZE))),
                       note)

    def _load(self, state: State) -> None:
        uc = self._uc
        uc.reg_write(x.UC_X86_REG_CS, guest.USER_CS)
        uc.reg_write(x.UC_X86_REG_SS, guest.USER_SS)
        for register in (_SEGMENT[0], *_SEGMENT[3:]):
            uc.reg_write(register, 0)
        for register, value in zip(_GPR, state.gpr, strict=True):
            uc.reg_write(register, value)
        uc.reg_write(x.UC_X86_REG_RFLAGS, state.rflags)
        uc.reg_write(x.UC_X86_REG_FS_BASE, state.fs_base)
        uc.reg_write(x.UC_X86_REG_GS_BASE, state.gs_base)
        image = state.xsave
        fcw, fsw, ftw = struct.unpack_from("<HHB", image, 0)
        uc.reg_write(x.UC_X86_REG_FPCW, fcw)
        uc.reg_write(x.UC_X86_REG_FPSW, fsw)
        uc.reg_write(x.UC_X86_REG_FPTAG, sum(3 << 2 * i for i in range(8) if not ftw >> i & 1))
        top = fsw >> 11 & 7
        for i in range(8):
            mantissa, exponent = struct.unpack_from("<QH", image, 32 + 16 * i)
            uc.reg_write(_ST[(top + i) % 8], (mantissa, exponent))
        uc.reg_write(x.UC_X86_REG_MXCSR, struct.unpack_from("<I", image, 24)[0])
        for i in range(16):
            uc.reg_write(_YMM[i], int.from_bytes(xsave.ymm(image, i), "little"))

    def _store(self) -> State:
        uc = self._uc
        fsw = uc.reg_read(x.UC_X86_REG_FPSW)
        tags = uc.reg_read(x.UC_X86_REG_FPTAG)
        top = fsw >> 11 & 7
        st = [struct.pack("<QH", *uc.reg_read(_ST[(top + i) % 8])) for i in range(8)]
        image = xsave.make([uc.reg_read(r).to_bytes(32, "little") for r in _YMM],
                           mxcsr=uc.reg_read(x.UC_X86_REG_MXCSR),
                           fcw=uc.reg_read(x.UC_X86_REG_FPCW), fsw=fsw,
                           ftw=sum(1 << i for i in range(8) if tags >> 2 * i & 3 != 3), st=st)
        return State(tuple(uc.reg_read(r) for r in _GPR), uc.reg_read(x.UC_X86_REG_RIP),
                     uc.reg_read(x.UC_X86_REG_RFLAGS), uc.reg_read(x.UC_X86_REG_FS_BASE),
                     uc.reg_read(x.UC_X86_REG_GS_BASE), image,
                     tuple(uc.reg_read(r) & 0xFFFF for r in _SEGMENT))
