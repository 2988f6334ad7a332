"""Address spaces and their groups: CR3 loads, flushes, INVLPG."""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport Mmu

cdef void load_cr3(CpuState* c, Mmu* m) noexcept nogil
cdef void flush_all(CpuState* c, Mmu* m) noexcept nogil
cdef void invlpg(CpuState* c, Mmu* m, u64 linear) noexcept nogil
