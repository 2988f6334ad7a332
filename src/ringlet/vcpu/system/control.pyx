"""Control registers, the machine status word, and the translation key (SDM 3A 2.5).

The CR4 bits of features that CPUID hides are reserved: setting one raises #GP(0).
"""
from ringlet.core.state cimport (
    SEG_CS, AR_L, AR_DB, AR_UNUSABLE, EMU_NEXT, EMU_FLOW, VEC_GP, VEC_UD,
    KEY_MODE16, KEY_MODE32, KEY_MODE64, KEY_NM, KEY_NOSSE, KEY_NOAVX, KEY_EM,
    narrowed, raise_err, raise_exc)
from ringlet.mmu.layout cimport mmu_of
from ringlet.mmu.mmu cimport mmu_flush_all, mmu_invlpg, mmu_load_cr3
from ringlet.mmu.walker cimport load_pdptes, physical_bits
from ringlet.vcpu.apic.local cimport apic_set_class
from ringlet.vcpu.system.cpuid cimport CPUID_EBX, CPUID_ECX, CPUID_EDX, cpuid_bit
from ringlet.vcpu.system.descriptors cimport SYS_TSS16_AVAILABLE
from ringlet.vcpu.system.memory cimport load, store
from ringlet.vcpu.system.flatness cimport hold_segments, key_of_segments
from ringlet.vcpu.system.registers cimport (
    CR0_PE, CR0_MP, CR0_EM, CR0_TS, CR0_ET, CR0_NE, CR0_WP, CR0_AM, CR0_NW, CR0_CD, CR0_PG,
    CR4_VME, CR4_PVI, CR4_TSD, CR4_DE, CR4_PSE, CR4_PAE, CR4_MCE, CR4_PGE, CR4_PCE, CR4_OSFXSR,
    CR4_OSXMMEXCPT, CR4_FSGSBASE, CR4_OSXSAVE, EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE,
    XCR0_SSE, XCR0_AVX, advance, long_mode, write_gpr)

cdef enum:
    CR0_KNOWN = (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM |
                 CR0_NW | CR0_CD | CR0_PG)
    CR4_KNOWN = (CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
                 CR4_OSFXSR | CR4_OSXMMEXCPT)
    CR4_PAGING = CR4_PSE | CR4_PAE | CR4_PGE


cdef void update_key(CpuState* c) noexcept nogil:
    """Compute c.key again; call this when one of its parts has changed."""
    cdef u32 key = c.arch.cpl
    cdef u32 ar = c.arch.seg[SEG_CS].ar
    if long_mode(c) and ar & AR_L:
        key |= KEY_MODE64
    elif ar & AR_DB:
        key |= KEY_MODE32
    else:
        key |= KEY_MODE16
    if c.arch.cr0 & (CR0_TS | CR0_EM):
        key |= KEY_NM
        if c.arch.cr0 & CR0_EM:
            key |= KEY_EM
    if not c.arch.cr4 & CR4_OSFXSR:
        key |= KEY_NOSSE
    if not c.arch.cr4 & CR4_OSXSAVE or c.arch.xcr0 & (XCR0_SSE | XCR0_AVX) != XCR0_SSE | XCR0_AVX:
        key |= KEY_NOAVX
    if not key & KEY_MODE64:
        key |= key_of_segments(c)
        if not c.arch.cpl:
            hold_segments(c)
        if c.key & KEY_MODE64:
            narrowed(c, key)
    c.key = key | key_of_steps(c)


cdef bint pdptes_load(CpuState* c, u64 cr3) noexcept nogil:
    """Load the PDPTE registers from the table at `cr3`; False: a reserved bit is set.

    (SDM 3A 4.4.1.)  CR0, CR3 and CR4 are written only if this is possible.
    """
    cdef u64 old = c.arch.cr3
    cdef bint valid
    c.arch.cr3 = cr3
    valid = load_pdptes(c, mmu_of(c))
    c.arch.cr3 = old
    return valid


cdef bint is_tss16(u32 ar) noexcept nogil:
    """Whether TR holds a 16-bit TSS, with which IA-32e mode cannot be entered."""
    return ar & 0x1D == SYS_TSS16_AVAILABLE and not ar & AR_UNUSABLE


cdef int write_cr0(CpuState* c, u64 value) noexcept nogil:
    """Write CR0 (MOV, LMSW): EMU_FLOW or EMU_FAULT.  Reserved bits of the low half stay clear."""
    cdef u64 old = c.arch.cr0
    cdef bint enters_long = False
    if value >> 32:
        return raise_err(c, VEC_GP, 0)
    value = (value & CR0_KNOWN) | CR0_ET
    if value & CR0_PG and not value & CR0_PE:
        return raise_err(c, VEC_GP, 0)
    if value & CR0_NW and not value & CR0_CD:
        return raise_err(c, VEC_GP, 0)
    if value & ~old & CR0_PG and c.arch.efer & EFER_LME:
        enters_long = True
        if not c.arch.cr4 & CR4_PAE or c.arch.seg[SEG_CS].ar & AR_L or is_tss16(c.arch.tr.ar):
            return raise_err(c, VEC_GP, 0)
    elif old & ~value & CR0_PG and c.arch.efer & EFER_LMA and c.arch.seg[SEG_CS].ar & AR_L:
        return raise_err(c, VEC_GP, 0)
    if (value ^ old) & (CR0_PG | CR0_CD | CR0_NW) and value & CR0_PG and c.arch.cr4 & CR4_PAE \
            and not enters_long and not long_mode(c) and not pdptes_load(c, c.arch.cr3):
        return raise_err(c, VEC_GP, 0)
    if enters_long:
        c.arch.efer |= EFER_LMA
    elif old & ~value & CR0_PG:
        c.arch.efer &= ~<u64>EFER_LMA
    c.arch.cr0 = value
    if (value ^ old) & (CR0_PG | CR0_WP | CR0_PE):
        mmu_flush_all(c)
    update_key(c)
    return EMU_FLOW


cdef bint pae_paging(CpuState* c, u64 cr4) noexcept nogil:
    """Whether paging is PAE paging with this CR4."""
    return c.arch.cr0 & CR0_PG != 0 and cr4 & CR4_PAE != 0 and not long_mode(c)


cdef int write_cr3(CpuState* c, u64 value) noexcept nogil:
    if long_mode(c):
        if value >> physical_bits(c):
            return raise_err(c, VEC_GP, 0)
    else:
        value &= <u64>0xFFFFFFFF
        if pae_paging(c, c.arch.cr4) and not pdptes_load(c, value):
            return raise_err(c, VEC_GP, 0)
    c.arch.cr3 = value
    mmu_load_cr3(c)
    return EMU_FLOW


cdef int write_cr4(CpuState* c, u64 value) noexcept nogil:
    """Write CR4: EMU_FLOW or EMU_FAULT."""
    cdef u64 known = CR4_KNOWN
    cdef u64 old = c.arch.cr4
    if cpuid_bit(c, 7, 0, CPUID_EBX, 0):
        known |= CR4_FSGSBASE
    if cpuid_bit(c, 1, 0, CPUID_ECX, 26):
        known |= CR4_OSXSAVE
    if cpuid_bit(c, 1, 0, CPUID_EDX, 1):
        known |= CR4_VME | CR4_PVI
    if value & ~known:
        return raise_err(c, VEC_GP, 0)
    if long_mode(c) and not value & CR4_PAE:
        return raise_err(c, VEC_GP, 0)
    if (value ^ old) & CR4_PAGING and pae_paging(c, value) and not pdptes_load(c, c.arch.cr3):
        return raise_err(c, VEC_GP, 0)
    c.arch.cr4 = value
    if (value ^ old) & CR4_PAGING:
        mmu_flush_all(c)
    update_key(c)
    return EMU_FLOW


cdef int write_efer(CpuState* c, u64 value) noexcept nogil:
    """Write IA32_EFER (SDM 3A 2.2.1): EMU_FLOW or EMU_FAULT.  LMA is read-only and ignored."""
    cdef u64 old = c.arch.efer
    if value & ~<u64>(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE):
        return raise_err(c, VEC_GP, 0)
    if (value ^ old) & EFER_LME and c.arch.cr0 & CR0_PG:
        return raise_err(c, VEC_GP, 0)
    c.arch.efer = (value & ~<u64>EFER_LMA) | (old & EFER_LMA)
    if (value ^ old) & EFER_NXE:
        mmu_flush_all(c)
    update_key(c)
    return EMU_FLOW


cdef int op_mov_from_cr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 value
    if op.reg == 0:
        value = c.arch.cr0
    elif op.reg == 2:
        value = c.arch.cr2
    elif op.reg == 3:
        value = c.arch.cr3
    elif op.reg == 4:
        value = c.arch.cr4
    elif op.reg == 8:
        value = c.arch.cr8
    else:
        return raise_exc(c, VEC_UD)
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    write_gpr(c, op.rm, value, 8 if c.key & KEY_MODE64 else 4)
    return EMU_NEXT


cdef int write_cr8(CpuState* c, OpInfo* op, u64 value) noexcept nogil:
    """Write CR8, the task priority class of the local APIC (SDM 3A 10.8.6.1)."""
    if value >> 4:
        return raise_err(c, VEC_GP, 0)
    apic_set_class(c, value)
    return EMU_NEXT


cdef int op_mov_to_cr(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 value = c.arch.gpr[op.rm]
    cdef int result
    if not c.key & KEY_MODE64:
        value &= <u64>0xFFFFFFFF
    if op.reg != 0 and op.reg != 2 and op.reg != 3 and op.reg != 4 and op.reg != 8:
        return raise_exc(c, VEC_UD)
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    if op.reg == 0:
        result = write_cr0(c, value)
    elif op.reg == 2:
        c.arch.cr2 = value
        result = EMU_NEXT
    elif op.reg == 3:
        result = write_cr3(c, value)
    elif op.reg == 4:
        result = write_cr4(c, value)
    else:
        result = write_cr8(c, op, value)
    if result == EMU_FLOW:
        advance(c, op)
    return result


cdef int op_smsw(CpuState* c, OpInfo* op) noexcept nogil:
    """SMSW: stores the whole CR0 in a 32- or 64-bit register, 16 bits in memory; not privileged."""
    if op.rm == 0xFF:
        return store(c, c.ea, 2, c.arch.cr0)
    write_gpr(c, op.rm, c.arch.cr0, op.size)
    return EMU_NEXT


cdef int op_lmsw(CpuState* c, OpInfo* op) noexcept nogil:
    """LMSW: loads bits 3:0 of CR0, but cannot clear PE."""
    cdef u64 value = 0
    cdef int result
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    if op.rm != 0xFF:
        value = c.arch.gpr[op.rm]
    elif load(c, c.ea, 2, &value):
        return 2
    result = write_cr0(c, (c.arch.cr0 & ~<u64>0xE) | (value & 0xF))
    if result == EMU_FLOW:
        advance(c, op)
    return result


cdef int op_clts(CpuState* c, OpInfo* op) noexcept nogil:
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    if not c.arch.cr0 & CR0_TS:
        return EMU_NEXT
    c.arch.cr0 &= ~<u64>CR0_TS
    update_key(c)
    advance(c, op)
    return EMU_FLOW


cdef int op_invlpg(CpuState* c, OpInfo* op) noexcept nogil:
    """INVLPG: ignores a non-canonical address (SDM 2A)."""
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    mmu_invlpg(c, c.ea)
    advance(c, op)
    return EMU_FLOW


cdef int op_cache(CpuState* c, OpInfo* op) noexcept nogil:
    """INVD, WBINVD, WBNOINVD: do nothing, because the host keeps its caches coherent."""
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    return EMU_NEXT
