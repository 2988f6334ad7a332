"""Memory operands of 16- and 32-bit code."""
from ringlet.core.state cimport u8, u32, i32
from ringlet.translate.builder cimport Builder, Ref
from ringlet.translate.insn cimport Insn

# The segment of the operand: the override, SS for one based on BP, EBP or ESP, or DS.
cdef u32 segment_of(Insn* i) noexcept nogil
# Which field the operand's displacement or offset is, if it is far and only copied (FREE_*), or 0.
cdef u8 far_field(Insn* i) noexcept nogil
# Emit code that puts the offset of the operand into r9, without changing a flag.
cdef void offset_operand(Builder* b, Insn* i) noexcept nogil
# The same for a ModRM operand; `moved` bytes are added to one based on ESP.
cdef void sum_to_r9(Builder* b, Insn* i, i32 moved) noexcept nogil
# Emit code that computes the address of an operand in a flat segment, and return the host operand.
cdef Ref host_operand(Builder* b, Insn* i, i32 moved) noexcept nogil
# The same for the instruction that is emitted next: what this emits may be its first prefixes.
cdef Ref next_operand(Builder* b, Insn* i) noexcept nogil
