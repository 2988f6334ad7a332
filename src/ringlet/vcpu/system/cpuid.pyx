"""CPUID from the virtual machine's table (SDM 2A CPUID), with the fields that depend on its state.

`ringlet.arch.cpuid` makes the table.  This module adds the rule for leaves out of range and the
dynamic fields.
"""
from ringlet.core.host cimport host_ticks_ordered
from ringlet.core.state cimport RAX, RBX, RCX, RDX
from ringlet.vcpu.apic.state cimport apic_enabled
from ringlet.vcpu.system.registers cimport CR4_OSXSAVE, XCR0_AVX, advance

cdef extern from *:
    """
    static inline void ringlet_cpuid(unsigned leaf, unsigned subleaf, unsigned *out) {
        __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
                         : "a"(leaf), "c"(subleaf));
    }
    """
    void ringlet_cpuid(u32 leaf, u32 subleaf, u32* out) noexcept nogil

cdef enum:
    MISC_LIMIT_CPUID = 1 << 22
    FEATURE_APIC = 1 << 9
    FEATURE_OSXSAVE = 1 << 27
    FEATURE_NX = 1 << 20


def host_cpuid(leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    """Return EAX, EBX, ECX and EDX of the host processor's CPUID."""
    cdef u32 out[4]
    ringlet_cpuid(leaf, subleaf, out)
    return out[0], out[1], out[2], out[3]


def host_tsc() -> int:
    """Return the current value of the host's time-stamp counter."""
    return host_ticks_ordered()


cdef CpuidEntry* cpuid_find(CpuState* c, u32 leaf, u32 subleaf) noexcept nogil:
    cdef CpuidEntry* entry = <CpuidEntry*>c.cpuid
    cdef u64 i
    for i in range(c.cpuid_count):
        if entry[i].leaf == leaf and (not entry[i].flags & 1 or entry[i].subleaf == subleaf):
            return &entry[i]
    return NULL


cdef bint cpuid_bit(CpuState* c, u32 leaf, u32 subleaf, u32 reg, u32 bit) noexcept nogil:
    """Whether the table offers a feature; the state is not considered, so OSXSAVE is never set."""
    cdef CpuidEntry* entry = cpuid_find(c, leaf, subleaf)
    if entry == NULL:
        return False
    return ((&entry.eax)[reg] >> bit) & 1


cdef void cpuid_read(CpuState* c, u32 leaf, u32 subleaf, u32* out) noexcept nogil:
    """Give the registers that CPUID returns now for a leaf and subleaf."""
    cdef CpuidEntry* entry = cpuid_find(c, 0, 0)
    cdef CpuidEntry* extended = cpuid_find(c, 0x80000000, 0)
    cdef u32 top = entry.eax if entry != NULL else 0
    cdef u32 top_extended = extended.eax if extended != NULL else 0
    if leaf >= 0x40000000 and leaf < 0x50000000:
        if cpuid_find(c, leaf, subleaf) == NULL:
            leaf = top
    elif leaf > top and (leaf < <u64>0x80000000 or leaf > top_extended):
        # Intel's processors answer a leaf out of range as the highest basic leaf, AMD's with zeros.
        leaf = top
    entry = cpuid_find(c, leaf, subleaf)
    if entry == NULL:
        out[0] = out[1] = out[2] = out[3] = 0
        if leaf == 0xB:
            # An invalid level of the topology still returns its number and the x2APIC ID.
            out[2] = subleaf & 0xFF
            entry = cpuid_find(c, 0xB, 0)
            if entry != NULL:
                out[3] = entry.edx
        return
    out[0] = entry.eax
    out[1] = entry.ebx
    out[2] = entry.ecx
    out[3] = entry.edx
    if leaf == 0:
        if c.arch.misc_enable & MISC_LIMIT_CPUID and out[0] > 2:
            out[0] = 2
    elif leaf == 1:
        out[2] &= ~<u32>FEATURE_OSXSAVE
        if c.arch.cr4 & CR4_OSXSAVE:
            out[2] |= FEATURE_OSXSAVE
        if not apic_enabled(c):
            out[3] &= ~<u32>FEATURE_APIC
    elif leaf == 0xD and subleaf < 2:
        # EBX is the size of the components that XCR0 enables; AVX is the last one in both formats.
        out[1] = 832 if c.arch.xcr0 & XCR0_AVX else 576
    elif leaf == <u64>0x80000001:
        if c.arch.misc_enable & (<u64>1 << 34):
            out[3] &= ~<u32>FEATURE_NX


cdef int op_cpuid(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 out[4]
    c.n_cpuid += 1
    cpuid_read(c, <u32>c.arch.gpr[RAX], <u32>c.arch.gpr[RCX], out)
    c.arch.gpr[RAX] = out[0]
    c.arch.gpr[RBX] = out[1]
    c.arch.gpr[RCX] = out[2]
    c.arch.gpr[RDX] = out[3]
    return 0
