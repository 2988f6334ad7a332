"""Ring-0 cases under Unicorn, and where it is known to be wrong."""
from __future__ import annotations

import importlib
from typing import Any

from unicorn import x86_const as x

from tests.differential import guest
from tests.differential.program import REGISTERS, SEGMENTS
from tests.differential.ring0 import CODE, HLT, Case, Result, initial_registers

unicorn: Any = importlib.import_module("unicorn")  # its annotations are no use

_NAMED = {n: getattr(x, f"UC_X86_REG_{n.upper()}") for n in (
    *REGISTERS, *SEGMENTS, "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "fs_base", "gs_base")}
_MSRS = {"efer": 0xC0000080, "star": 0xC0000081, "lstar": 0xC0000082, "sfmask": 0xC0000084,
         "kernel_gs_base": 0xC0000102}


class UnicornRing0:
    """One case at a time, each in a machine of its own."""

    def run(self, case: Case) -> Result:
        """Run to HLT or an exception."""
        uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        uc.ctl_set_cpu_model(x.UC_CPU_X86_EPYC_ROME)
        uc.mem_map(0, guest.RAM_SIZE)
        uc.mem_write(0, guest.memory(ist=1))
        uc.mem_write(guest.RING0_CODE, (case.code + HLT).ljust(0x200, HLT))
        uc.mem_write(guest.RING0_DATA, case.data)
        for msr, value in ((0xC0000080, guest.EFER), (0xC0000081, guest.STAR),
                           (0xC0000082, guest.LSTAR), (0xC0000084, 0x47700)):
            uc.reg_write(x.UC_X86_REG_MSR, (msr, value))
        uc.reg_write(x.UC_X86_REG_CR4, guest.CR4)
        uc.reg_write(x.UC_X86_REG_CR3, guest.PML4)
        uc.reg_write(x.UC_X86_REG_CR0, guest.CR0)
        uc.reg_write(x.UC_X86_REG_GDTR, (0, guest.KERNEL + guest.GDT, guest.GDT_LIMIT, 0))
        uc.reg_write(x.UC_X86_REG_IDTR, (0, guest.KERNEL + guest.IDT, 0xFFF, 0))
        uc.reg_write(x.UC_X86_REG_CS, guest.KERNEL_CS)
        uc.reg_write(x.UC_X86_REG_SS, guest.KERNEL_SS)
        for name, value in initial_registers(case).items():
            uc.reg_write(_NAMED[name], value)
        uc.reg_write(x.UC_X86_REG_RFLAGS, case.rflags)
        seen: list[int] = []

        def interrupt(uc: Any, number: int, data: object) -> None:
            seen.append(number)
            uc.emu_stop()

        uc.hook_add(unicorn.UC_HOOK_INTR, interrupt)
        note = ""
        try:
            uc.emu_start(CODE, 0, count=1000)
        except unicorn.UcError as error:
            note = str(error)
            if error.errno == unicorn.UC_ERR_INSN_INVALID:
                seen.append(6)
            elif not seen:
                return Result(f"error {error}", {}, b"", note)
        values = {n: uc.reg_read(r) for n, r in _NAMED.items()}
        for name in SEGMENTS:
            values[name] &= 0xFFFF
        values |= {n: uc.reg_read(x.UC_X86_REG_MSR, m) for n, m in _MSRS.items()}
        for name, register in (("gdtr", x.UC_X86_REG_GDTR), ("idtr", x.UC_X86_REG_IDTR)):
            table = uc.reg_read(register)
            values[f"{name}_base"], values[f"{name}_limit"] = table[1], table[2]
        memory = bytes(uc.mem_read(guest.GDT, 0x1000)) \
            + bytes(uc.mem_read(guest.RING0_DATA, 0x2000))
        return Result(f"vector {seen[0]}" if seen else "hlt", values, memory, note)
