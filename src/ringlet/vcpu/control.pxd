"""Control registers, XCR0 and the translation key (SDM 3A 2.5-2.6)."""
from ringlet.core.state cimport CpuState, OpInfo, u8, u16, u32, u64

cdef void update_key(CpuState* c) noexcept nogil
cdef int write_cr0(CpuState* c, u64 value) noexcept nogil
cdef int write_cr4(CpuState* c, u64 value) noexcept nogil
cdef int write_efer(CpuState* c, u64 value) noexcept nogil

cdef int op_mov_from_cr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_mov_to_cr(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_smsw(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_lmsw(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_clts(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_invlpg(CpuState* c, OpInfo* op) noexcept nogil
cdef int op_cache(CpuState* c, OpInfo* op) noexcept nogil
