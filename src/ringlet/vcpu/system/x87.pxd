"""The last x87 instruction as the guest knows it: pointers and opcode (SDM 1 8.1.8, 8.1.9)."""
from ringlet.core.state cimport CpuState, u8, u16, u32, u64

# What CpuState.fpu_pointer tells of an x87 instruction or data pointer that the host's registers
# hold: the guest's linear address, or 0; of an instruction pointer also the opcode (FOP) of the
# guest's instruction, and in the upper half that of its translation.
cdef enum:
    FPU_INSTRUCTION = 0
    FPU_DATA = 1
    FPU_OPCODE = 2
    X87_NONE = 0x10000   # no opcode
# What the host's registers hold for a pointer other than 0 that the guest loaded.  No code and no
# guest memory is at this host address, so what the guest loads is never taken for a pointer of the
# host.  CpuState.arch.fpu_restored has the guest's value.
cdef enum:
    X87_LOADED = 0x10
# NULL stands for "always 0".
ctypedef u64 (*fpu_pointer_fn)(CpuState* c, u64 host, int data) noexcept nogil

cdef u32 x87_opcode(const u8* code) noexcept nogil
cdef u64 load_pointer(CpuState* c, u64 guest, int data) noexcept nogil
cdef u64 guest_pointer(CpuState* c, u64 host, int data) noexcept nogil
cdef u16 guest_opcode(CpuState* c, u64 host, u16 fop) noexcept nogil
