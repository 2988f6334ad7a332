"""SYSCALL, SYSRET, SYSENTER, SYSEXIT (SDM 3A 5.8.7-5.8.8), as Intel's processors execute them.

Intel and AMD differ.  On Intel's processors SYSCALL and SYSRET exist only in 64-bit mode, SYSENTER
and SYSEXIT also in IA-32e mode, and SYSRET raises #GP at CPL 0 for a non-canonical RCX.  AMD's have
SYSCALL and SYSRET in every mode (APM 3).  A guest's programs choose by the vendor that CPUID names,
so that vendor decides here too.
"""
from ringlet.core.state cimport (
    CpuidEntry, RCX, RDX, RSP, SEG_CS, SEG_SS, AR_L, AR_DB, EMU_FLOW, FLAG_IF, FLAG_RF, FLAG_VM,
    KEY_MODE64, VEC_GP, VEC_UD, get_rflags, is_canonical, raise_err, raise_exc, set_rflags)
from ringlet.vcpu.direct.policy cimport policy_returns
from ringlet.vcpu.system.control cimport update_key, update_key_privilege
from ringlet.vcpu.system.cpuid cimport cpuid_find
from ringlet.vcpu.system.descriptors cimport load_flat
from ringlet.vcpu.system.registers cimport CR0_PE, EFER_SCE, long_mode, next_rip

cdef enum:
    CODE_TYPE = 0xB      # execute, read, accessed
    DATA_TYPE = 0x3      # read, write, accessed

    AUTH = 0x68747541    # EBX of CPUID leaf 0 for "AuthenticAMD" and, with the next, "HygonGenuine"
    HYGO = 0x6F677948


cdef bint amd_named(CpuState* c) noexcept nogil:
    """Whether CPUID names a vendor whose SYSCALL exists outside 64-bit mode."""
    cdef CpuidEntry* entry = cpuid_find(c, 0, 0)
    return entry != NULL and (entry.ebx == AUTH or entry.ebx == HYGO)


cdef void switch_code(CpuState* c, u32 cs, u32 ss, u32 cpl, bint code64, u64 rip) noexcept nogil:
    cdef u32 dpl = cpl << 5
    load_flat(&c.arch.seg[SEG_CS], cs, CODE_TYPE | dpl | (AR_L if code64 else AR_DB))
    load_flat(&c.arch.seg[SEG_SS], ss, DATA_TYPE | dpl | AR_DB)
    c.arch.cpl = cpl
    c.arch.rip = rip
    if code64 and c.key & KEY_MODE64:
        update_key_privilege(c)
    else:
        update_key(c)


cdef int op_syscall(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 flags
    cdef u32 selector = <u32>(c.arch.star >> 32)
    if not c.arch.efer & EFER_SCE or not (c.key & KEY_MODE64 or amd_named(c)):
        return raise_exc(c, VEC_UD)
    if not long_mode(c):
        c.arch.gpr[RCX] = next_rip(c, op)
        c.arch.iflag = 0
        c.arch.rflags &= ~<u64>(FLAG_VM | FLAG_RF)
        switch_code(c, selector & 0xFFFC, selector + 8, 0, False, <u32>c.arch.star)
        return EMU_FLOW
    flags = get_rflags(c) & ~<u64>FLAG_RF
    c.arch.gpr[RCX] = next_rip(c, op)
    c.arch.gpr[11] = flags
    set_rflags(c, flags & ~c.arch.sfmask)
    # The SDM clears the RPL of CS, but not that of SS.
    switch_code(c, selector & 0xFFFC, selector + 8, 0, True,
                c.arch.lstar if c.key & KEY_MODE64 else c.arch.cstar)
    return EMU_FLOW


cdef int op_sysret(CpuState* c, OpInfo* op) noexcept nogil:
    """SYSRET: returns to 64-bit mode with REX.W (op.size 8), else to compatibility mode."""
    cdef u64 rip = c.arch.gpr[RCX]
    cdef u32 selector = <u32>(c.arch.star >> 48)
    cdef bint wide = op.size == 8
    if not c.arch.efer & EFER_SCE or not (c.key & KEY_MODE64 or amd_named(c)):
        return raise_exc(c, VEC_UD)
    if c.arch.cpl or not c.arch.cr0 & CR0_PE:
        return raise_err(c, VEC_GP, 0)
    if not c.key & KEY_MODE64:
        c.arch.iflag = FLAG_IF
        switch_code(c, selector | 3, (selector + 8) | 3, 3, False, rip & <u64>0xFFFFFFFF)
        return EMU_FLOW
    if wide:
        if not is_canonical(rip):
            return raise_err(c, VEC_GP, 0)
    else:
        rip &= <u64>0xFFFFFFFF
    set_rflags(c, c.arch.gpr[11] & ~<u64>(FLAG_RF | FLAG_VM))
    switch_code(c, (selector + 16 if wide else selector) | 3, (selector + 8) | 3, 3, wide, rip)
    if c.direct != NULL:
        policy_returns(c)
    return EMU_FLOW


cdef int op_sysenter(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = <u32>c.arch.sysenter_cs & 0xFFFC
    cdef bint wide = long_mode(c)
    if not c.arch.cr0 & CR0_PE or selector == 0:
        return raise_err(c, VEC_GP, 0)
    c.arch.iflag = 0
    c.arch.rflags &= ~<u64>(FLAG_VM | FLAG_RF)
    c.arch.gpr[RSP] = c.arch.sysenter_esp if wide else c.arch.sysenter_esp & <u64>0xFFFFFFFF
    switch_code(c, selector, selector + 8, 0, wide,
          c.arch.sysenter_eip if wide else c.arch.sysenter_eip & <u64>0xFFFFFFFF)
    return EMU_FLOW


cdef int op_sysexit(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 selector = <u32>c.arch.sysenter_cs & 0xFFFC
    cdef u64 rsp = c.arch.gpr[RCX]
    cdef u64 rip = c.arch.gpr[RDX]
    cdef bint wide = op.size == 8
    if selector == 0 or c.arch.cpl or not c.arch.cr0 & CR0_PE:
        return raise_err(c, VEC_GP, 0)
    if wide:
        if not is_canonical(rsp) or not is_canonical(rip):
            return raise_err(c, VEC_GP, 0)
        selector += 32
    else:
        rsp &= <u64>0xFFFFFFFF
        rip &= <u64>0xFFFFFFFF
        selector += 16
    c.arch.gpr[RSP] = rsp
    switch_code(c, selector | 3, (selector + 8) | 3, 3, wide, rip)
    return EMU_FLOW
