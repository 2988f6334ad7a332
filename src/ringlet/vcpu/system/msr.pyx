"""Model-specific registers of the virtual processor (SDM vol. 4), and the time-stamp counter.

An MSR that is not listed here raises #GP(0), as on a processor without it.  Linux accesses most
MSRs with an exception handler.
"""
from ringlet.core.state cimport (
    RAX, RCX, RDX, SEG_FS, SEG_GS, EMU_EXIT, EMU_FAULT, EMU_FLOW, EMU_NEXT,
    CpuidEntry, KEY_MODE64, VEC_GP, VEC_UD, is_canonical, raise_err, raise_exc)
from ringlet.core.host cimport host_ticks, host_ticks_ordered
from ringlet.mmu.walker cimport physical_bits
from ringlet.vcpu.apic.local cimport (
    apic_base_written, apic_deadline, apic_read_msr, apic_set_deadline, apic_write_msr)
from ringlet.vcpu.apic.state cimport APIC_EN, APIC_EXTD, in_x2apic
from ringlet.vcpu.system.control cimport write_efer
from ringlet.vcpu.system.cpuid cimport CPUID_ECX, CPUID_EDX, cpuid_bit, cpuid_find
from ringlet.vcpu.system.registers cimport CR4_TSD, advance, write_gpr

cdef enum:
    APIC_BSP = 1 << 8
    MISC_FAST_STRINGS = 1
    MISC_BTS_UNAVAILABLE = 1 << 11
    MISC_PEBS_UNAVAILABLE = 1 << 12
    MISC_LIMIT_CPUID = 1 << 22
    MTRR_PAIRS = 10
    MTRR_FIXED_SUPPORTED = 1 << 8
    MTRR_WC_SUPPORTED = 1 << 10
    SPEC_CTRL_KNOWN = 0x407        # IBRS, STIBP, SSBD, BHI_DIS_S
    DEBUGCTL_KNOWN = 0x2           # BTF; there are no last-branch records
    MICROCODE_REVISION = 1
    PAT_RESET = 0x00070406


cdef u64 read_tsc(CpuState* c) noexcept nogil:
    """Return the guest's time-stamp counter: the host's plus an offset (SDM 3B 17.17)."""
    return host_ticks() + c.arch.tsc_offset


cdef u64 misc_writable() noexcept nogil:
    # Only two bits have an effect here: the limit of CPUID to leaf 2, and the disabling of NX.
    return MISC_LIMIT_CPUID | <u64>1 << 34


cdef void reset_msrs(CpuState* c) noexcept nogil:
    """Set the MSRs to their values after power-up (SDM 3A table 9-1, vol. 4).

    FEATURE_CONTROL is locked, as firmware leaves it.
    """
    cdef u32 i
    c.arch.star = c.arch.lstar = c.arch.cstar = c.arch.sfmask = c.arch.kernel_gs_base = 0
    c.arch.sysenter_cs = c.arch.sysenter_esp = c.arch.sysenter_eip = 0
    c.arch.tsc_adjust = c.arch.tsc_aux = 0
    c.arch.apic_base = <u64>0xFEE00000 | APIC_EN | APIC_BSP
    c.arch.pat = <u64>PAT_RESET << 32 | PAT_RESET
    c.arch.misc_enable = MISC_FAST_STRINGS | MISC_BTS_UNAVAILABLE | MISC_PEBS_UNAVAILABLE
    c.arch.spec_ctrl = c.arch.debugctl = c.arch.xss = c.arch.mtrr_def = 0
    c.arch.feature_control = 1
    for i in range(20):
        c.arch.mtrr_phys[i] = 0
    for i in range(11):
        c.arch.mtrr_fixed[i] = 0

cdef u64 arch_capabilities() noexcept nogil:
    """Return IA32_ARCH_CAPABILITIES of an immune processor, so that guests use no mitigations.

    The bits are RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR_SSDP_NO
    FBSDP_NO PSDP_NO BHI_NO PBRSB_NO GDS_NO RFDS_NO ITS_NO.
    """
    return (1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 13 | 1 << 14 |
            1 << 15 | 1 << 20 | 1 << 24 | 1 << 26 | 1 << 27 | <u64>1 << 62)


cdef int fixed_mtrr(u32 index) noexcept nogil:
    """Return an MSR's index in mtrr_fixed, or -1."""
    if index == MSR_MTRR_FIX64K_00000:
        return 0
    if MSR_MTRR_FIX16K_80000 <= index <= MSR_MTRR_FIX16K_A0000:
        return 1 + index - MSR_MTRR_FIX16K_80000
    if MSR_MTRR_FIX4K_C0000 <= index <= MSR_MTRR_FIX4K_F8000:
        return 3 + index - MSR_MTRR_FIX4K_C0000
    return -1


cdef bint memory_types(u64 value, bint pat) noexcept nogil:
    """Whether all 8 bytes are memory types: 0, 1, 4, 5, 6, and 7 (UC-) in the PAT."""
    cdef u32 kind, shift
    for shift in range(0, 64, 8):
        kind = <u32>(value >> shift) & 0xFF
        if kind > 7 or not (0xF3 if pat else 0x73) >> kind & 1:
            return False
    return True


cdef bint offers_x2apic(CpuState* c) noexcept nogil:
    return cpuid_bit(c, 1, 0, CPUID_ECX, 21)


cdef u32 base_mhz(CpuState* c) noexcept nogil:
    cdef CpuidEntry* entry = cpuid_find(c, 0x16, 0)
    return entry.eax if entry != NULL else 0


cdef inline bint has_rdtscp(CpuState* c) noexcept nogil:
    """Tell whether RDTSCP and its MSR exist.  Every processor with RDPID has them, even if CPUID
    does not show them (`ringlet.arch.cpuid`)."""
    return (cpuid_bit(c, <u64>0x80000001, 0, CPUID_EDX, 27)
            or cpuid_bit(c, 7, 0, CPUID_ECX, 22))


cdef int read_msr(CpuState* c, u32 index, u64* value) noexcept nogil:
    """Read an MSR without the privilege check of RDMSR: 0 or EMU_FAULT."""
    cdef int fixed
    if index == MSR_TSC:
        value[0] = read_tsc(c)
    elif index == MSR_PLATFORM_ID or index == MSR_MCG_CAP or index == MSR_MCG_STATUS:
        value[0] = 0
    elif index == MSR_APIC_BASE:
        value[0] = c.arch.apic_base
    elif index == MSR_FEATURE_CONTROL:
        value[0] = c.arch.feature_control
    elif index == MSR_TSC_ADJUST:
        value[0] = c.arch.tsc_adjust
    elif index == MSR_SPEC_CTRL and cpuid_bit(c, 7, 0, CPUID_EDX, 26):
        value[0] = c.arch.spec_ctrl
    elif index == MSR_BIOS_SIGN_ID:
        value[0] = <u64>MICROCODE_REVISION << 32
    elif index == MSR_PLATFORM_INFO:
        # MSR_PLATFORM_INFO has the maximum non-turbo ratio, in units of 100 MHz; it does not offer
        # CPUID faulting.
        value[0] = <u64>(base_mhz(c) / 100 & 0xFF) << 8
    elif index == MSR_MTRRCAP:
        value[0] = MTRR_PAIRS | MTRR_FIXED_SUPPORTED | MTRR_WC_SUPPORTED
    elif index == MSR_ARCH_CAPABILITIES and cpuid_bit(c, 7, 0, CPUID_EDX, 29):
        value[0] = arch_capabilities()
    elif index == MSR_SYSENTER_CS:
        value[0] = c.arch.sysenter_cs
    elif index == MSR_SYSENTER_ESP:
        value[0] = c.arch.sysenter_esp
    elif index == MSR_SYSENTER_EIP:
        value[0] = c.arch.sysenter_eip
    elif index == MSR_MISC_ENABLE:
        value[0] = c.arch.misc_enable
    elif index == MSR_DEBUGCTL:
        value[0] = c.arch.debugctl
    elif MSR_MTRR_PHYSBASE0 <= index < MSR_MTRR_PHYSBASE0 + 2 * MTRR_PAIRS:
        value[0] = c.arch.mtrr_phys[index - MSR_MTRR_PHYSBASE0]
    elif index == MSR_PAT:
        value[0] = c.arch.pat
    elif index == MSR_MTRR_DEF_TYPE:
        value[0] = c.arch.mtrr_def
    elif index == MSR_TSC_DEADLINE and cpuid_bit(c, 1, 0, CPUID_ECX, 24):
        value[0] = apic_deadline(c)
    elif MSR_X2APIC_FIRST <= index <= MSR_X2APIC_LAST:
        return apic_read_msr(c, index, value)
    elif index == MSR_XSS and cpuid_bit(c, 0xD, 1, 0, 3):
        value[0] = c.arch.xss
    elif index == MSR_EFER:
        value[0] = c.arch.efer
    elif index == MSR_STAR:
        value[0] = c.arch.star
    elif index == MSR_LSTAR:
        value[0] = c.arch.lstar
    elif index == MSR_CSTAR:
        value[0] = c.arch.cstar
    elif index == MSR_SFMASK:
        value[0] = c.arch.sfmask
    elif index == MSR_FS_BASE:
        value[0] = c.arch.seg[SEG_FS].base
    elif index == MSR_GS_BASE:
        value[0] = c.arch.seg[SEG_GS].base
    elif index == MSR_KERNEL_GS_BASE:
        value[0] = c.arch.kernel_gs_base
    elif index == MSR_TSC_AUX and has_rdtscp(c):
        value[0] = c.arch.tsc_aux
    else:
        fixed = fixed_mtrr(index)
        if fixed < 0:
            return raise_err(c, VEC_GP, 0)
        value[0] = c.arch.mtrr_fixed[fixed]
    return 0


cdef int write_mtrr(CpuState* c, u32 index, u64 value) noexcept nogil:
    cdef int fixed = fixed_mtrr(index)
    if fixed >= 0:
        if not memory_types(value, False):
            return raise_err(c, VEC_GP, 0)
        c.arch.mtrr_fixed[fixed] = value
        return 0
    if value >> physical_bits(c):
        return raise_err(c, VEC_GP, 0)
    if index & 1:
        if value & 0x7FF:                      # PHYSMASK: bit 11 is V, lower bits are reserved
            return raise_err(c, VEC_GP, 0)
    elif value & 0xF00 or not memory_types(value & 0xFF, False):
        return raise_err(c, VEC_GP, 0)
    c.arch.mtrr_phys[index - MSR_MTRR_PHYSBASE0] = value
    return 0


cdef int write_apic_base(CpuState* c, u64 value) noexcept nogil:
    """Write IA32_APIC_BASE, with the mode changes that SDM 3A figure 10-27 allows."""
    cdef u64 old, reserved = 0x2FF | (0 if offers_x2apic(c) else APIC_EXTD)
    if value >> physical_bits(c) or value & reserved:
        return raise_err(c, VEC_GP, 0)
    if value & APIC_EXTD and not value & APIC_EN:
        return raise_err(c, VEC_GP, 0)
    if in_x2apic(c) and value & APIC_EN and not value & APIC_EXTD:
        return raise_err(c, VEC_GP, 0)
    if not c.arch.apic_base & APIC_EN and value & APIC_EXTD:
        return raise_err(c, VEC_GP, 0)
    old = c.arch.apic_base
    c.arch.apic_base = value
    apic_base_written(c, old)
    return 0


cdef int canonical_or_fault(CpuState* c, u64 value, u64* target) noexcept nogil:
    if not is_canonical(value):
        return raise_err(c, VEC_GP, 0)
    target[0] = value
    return 0


cdef int write_base(CpuState* c, u32 index, u64 value) noexcept nogil:
    if not is_canonical(value):
        return raise_err(c, VEC_GP, 0)
    c.arch.seg[index].base = value
    return 0


cdef void move_tsc(CpuState* c, u64 delta) noexcept nogil:
    c.arch.tsc_offset += delta
    c.arch.tsc_adjust += delta
    if apic_deadline(c):
        apic_set_deadline(c, apic_deadline(c))


cdef int write_msr(CpuState* c, u32 index, u64 value) noexcept nogil:
    """Write an MSR without the privilege check of WRMSR: 0, EMU_FLOW, EMU_FAULT or EMU_EXIT.

    After EMU_EXIT the write is done.
    """
    cdef u64 delta
    if index == MSR_TSC:
        # A write to the counter moves IA32_TSC_ADJUST by the same amount (SDM 3B 17.17.3).
        delta = value - read_tsc(c)
        move_tsc(c, delta)
    elif index == MSR_TSC_ADJUST:
        move_tsc(c, value - c.arch.tsc_adjust)
    elif index == MSR_APIC_BASE:
        return write_apic_base(c, value)
    elif index == MSR_SPEC_CTRL and cpuid_bit(c, 7, 0, CPUID_EDX, 26):
        if value & ~<u64>SPEC_CTRL_KNOWN:
            return raise_err(c, VEC_GP, 0)
        c.arch.spec_ctrl = value
    elif index == MSR_PRED_CMD and cpuid_bit(c, 7, 0, CPUID_EDX, 26):
        # IBPB needs no action: the host issues barriers when it switches between processes.
        if value & ~<u64>1:
            return raise_err(c, VEC_GP, 0)
    elif index == MSR_FLUSH_CMD and cpuid_bit(c, 7, 0, CPUID_EDX, 28):
        if value & ~<u64>1:
            return raise_err(c, VEC_GP, 0)
    elif index == MSR_BIOS_UPDT_TRIG or index == MSR_BIOS_SIGN_ID or index == MSR_MCG_STATUS:
        # There is no microcode to load.  Software writes 0 and executes CPUID before it reads the
        # revision, which does not change.
        if index == MSR_MCG_STATUS and value:
            return raise_err(c, VEC_GP, 0)
    elif index == MSR_SYSENTER_CS:
        c.arch.sysenter_cs = value & <u64>0xFFFFFFFF
    elif index == MSR_SYSENTER_ESP:
        return canonical_or_fault(c, value, &c.arch.sysenter_esp)
    elif index == MSR_SYSENTER_EIP:
        return canonical_or_fault(c, value, &c.arch.sysenter_eip)
    elif index == MSR_MISC_ENABLE:
        c.arch.misc_enable = (c.arch.misc_enable & ~misc_writable()) | (value & misc_writable())
    elif index == MSR_DEBUGCTL:
        if value & ~<u64>DEBUGCTL_KNOWN:
            return raise_err(c, VEC_GP, 0)
        c.arch.debugctl = value
    elif (MSR_MTRR_PHYSBASE0 <= index < MSR_MTRR_PHYSBASE0 + 2 * MTRR_PAIRS or
            fixed_mtrr(index) >= 0):
        return write_mtrr(c, index, value)
    elif index == MSR_PAT:
        if not memory_types(value, True):
            return raise_err(c, VEC_GP, 0)
        c.arch.pat = value
    elif index == MSR_MTRR_DEF_TYPE:
        if value & ~<u64>0xCFF or not memory_types(value & 0xFF, False):
            return raise_err(c, VEC_GP, 0)
        c.arch.mtrr_def = value
    elif index == MSR_TSC_DEADLINE and cpuid_bit(c, 1, 0, CPUID_ECX, 24):
        apic_set_deadline(c, value)
    elif MSR_X2APIC_FIRST <= index <= MSR_X2APIC_LAST:
        return apic_write_msr(c, index, value)
    elif index == MSR_XSS and cpuid_bit(c, 0xD, 1, 0, 3):
        # The processor offers no supervisor state component.
        if value:
            return raise_err(c, VEC_GP, 0)
    elif index == MSR_EFER:
        return write_efer(c, value)
    elif index == MSR_STAR:
        c.arch.star = value
    elif index == MSR_LSTAR:
        return canonical_or_fault(c, value, &c.arch.lstar)
    elif index == MSR_CSTAR:
        return canonical_or_fault(c, value, &c.arch.cstar)
    elif index == MSR_SFMASK:
        if value >> 32:
            return raise_err(c, VEC_GP, 0)
        c.arch.sfmask = value
    elif index == MSR_FS_BASE:
        return write_base(c, SEG_FS, value)
    elif index == MSR_GS_BASE:
        return write_base(c, SEG_GS, value)
    elif index == MSR_KERNEL_GS_BASE:
        return canonical_or_fault(c, value, &c.arch.kernel_gs_base)
    elif index == MSR_TSC_AUX and has_rdtscp(c):
        if value >> 32:
            return raise_err(c, VEC_GP, 0)
        c.arch.tsc_aux = value
    else:
        # The MSR is unknown, or read-only like MTRRCAP and the locked FEATURE_CONTROL.
        return raise_err(c, VEC_GP, 0)
    return 0


cdef int op_rdmsr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 value = 0
    cdef int result
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    c.n_msr_reads += 1
    result = read_msr(c, <u32>c.arch.gpr[RCX], &value)
    if result:
        return result
    c.arch.gpr[RAX] = value & <u64>0xFFFFFFFF
    c.arch.gpr[RDX] = value >> 32
    return EMU_NEXT


cdef int op_wrmsr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 value = (c.arch.gpr[RDX] << 32) | (c.arch.gpr[RAX] & <u64>0xFFFFFFFF)
    cdef u32 index = <u32>c.arch.gpr[RCX]
    cdef int result
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    c.n_msr_writes += 1
    result = write_msr(c, index, value)
    if result == EMU_FLOW or result == EMU_EXIT:
        advance(c, op)
    return result


cdef int check_tsc(CpuState* c) noexcept nogil:
    if c.arch.cpl and c.arch.cr4 & CR4_TSD:
        return raise_err(c, VEC_GP, 0)
    return 0


cdef int op_rdtsc(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 tsc
    if check_tsc(c):
        return EMU_FAULT
    tsc = read_tsc(c)
    c.arch.gpr[RAX] = tsc & <u64>0xFFFFFFFF
    c.arch.gpr[RDX] = tsc >> 32
    return EMU_NEXT


cdef int op_rdtscp(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 tsc
    if not has_rdtscp(c):
        return raise_exc(c, VEC_UD)
    if check_tsc(c):
        return EMU_FAULT
    tsc = host_ticks_ordered() + c.arch.tsc_offset
    c.arch.gpr[RAX] = tsc & <u64>0xFFFFFFFF
    c.arch.gpr[RDX] = tsc >> 32
    c.arch.gpr[RCX] = c.arch.tsc_aux
    return EMU_NEXT


cdef int op_rdpmc(CpuState* c, OpInfo* op) noexcept nogil:
    """RDPMC: raises #GP(0), because there are no counters and so every index is invalid."""
    return raise_err(c, VEC_GP, 0)


cdef int op_rdpid(CpuState* c, OpInfo* op) noexcept nogil:
    if not cpuid_bit(c, 7, 0, CPUID_ECX, 22):
        return raise_exc(c, VEC_UD)
    write_gpr(c, op.rm, c.arch.tsc_aux, 8 if c.key & KEY_MODE64 else 4)
    return EMU_NEXT
