"""Branches, calls and returns of 16- and 32-bit code, and the exits for operations."""
from ringlet.core.state cimport u32
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

# Emit the entry for indirect jumps.
cdef void emit_narrow_thunk(Builder* b) noexcept nogil
# Leave for the virtual processor to perform `op`.
cdef void emit_narrow_op(Builder* b, Insn* i, u32 op) noexcept nogil
# Leave for a MOV to or from memory of a device.
cdef void emit_narrow_device(Builder* b, Insn* i) noexcept nogil
# Emit a control transfer: 0, the fragment ends; 1, it continues; NO_CODE: leave for the emulator.
cdef int emit_narrow_branch(Builder* b, Insn* i) noexcept nogil

cdef enum:
    NO_CODE = 2
