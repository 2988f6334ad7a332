"""CPUID from the virtual machine's table, and queries of that table."""
from ringlet.core.state cimport CpuState, CpuidEntry, OpInfo, u8, u16, u32, u64

# The output registers of CPUID, for `cpuid_bit`.
cdef enum:
    CPUID_EAX = 0
    CPUID_EBX = 1
    CPUID_ECX = 2
    CPUID_EDX = 3

cdef CpuidEntry* cpuid_find(CpuState* c, u32 leaf, u32 subleaf) noexcept nogil
cdef bint cpuid_bit(CpuState* c, u32 leaf, u32 subleaf, u32 reg, u32 bit) noexcept nogil
cdef void cpuid_read(CpuState* c, u32 leaf, u32 subleaf, u32* out) noexcept nogil
cdef int op_cpuid(CpuState* c, OpInfo* op) noexcept nogil
