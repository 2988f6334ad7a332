"""MOV to and from memory of devices."""
from ringlet.core.state cimport u8, u32
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

cdef enum:
    NO_REGISTER = 0xFF   # OpInfo.reg of a store of an immediate

# What a MOV moves.
cdef struct DeviceMove:
    bint writes
    u8 size           # bytes in memory
    u8 width          # bytes of the register
    u8 reg            # general register, or NO_REGISTER
    u8 flags          # OPF_HIGH, OPF_SIGN

# Whether `i` is a MOV between memory and a general register, or of an immediate to memory.
cdef bint device_move(Insn* i, DeviceMove* m) noexcept nogil
# Leave for OP_DEVICE_READ or OP_DEVICE_WRITE; `i` is such a MOV.
cdef void emit_device(Builder* b, Insn* i) noexcept nogil
# The same with the address in r9, if there is room for an operation.
cdef void leave_for_device(Builder* b, Insn* i) noexcept nogil
