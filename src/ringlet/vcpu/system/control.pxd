"""Control registers, XCR0 and the translation key (SDM 3A 2.5-2.6)."""
from ringlet.core.state cimport CpuState, FLAG_TF, KEY_CPL, KEY_STEP, OpInfo, u8, u16, u32, u64
from ringlet.vcpu.debug.stops cimport debug_watches
from ringlet.vcpu.system.registers cimport DR7_ENABLES

cdef void update_key(CpuState* c) noexcept nogil

cdef inline u32 key_of_steps(CpuState* c) noexcept nogil:
    if c.arch.rflags & FLAG_TF or c.arch.dr[7] & DR7_ENABLES or debug_watches(c):
        return KEY_STEP
    return 0

cdef inline void update_key_privilege(CpuState* c) noexcept nogil:
    """Update c.key after a change of CPL or RFLAGS.TF only."""
    c.key = c.key & ~<u32>(KEY_CPL | KEY_STEP) | c.arch.cpl | key_of_steps(c)

cdef int write_cr0(CpuState* c, u64 value) noexcept nogil
cdef int write_cr3(CpuState* c, u64 value) noexcept nogil
cdef int write_cr4(CpuState* c, u64 value) noexcept nogil
cdef int write_efer(CpuState* c, u64 value) noexcept nogil

cdef int op_mov_from_cr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_mov_to_cr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_smsw(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_lmsw(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_clts(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_invlpg(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_cache(CpuState* c, OpInfo* op) noexcept nogil
