"""Memory operands of 16- and 32-bit code."""
from ringlet.core.state cimport u32, i32
from ringlet.translate.builder cimport Builder, Ref
from ringlet.translate.insn cimport Insn

# The segment of the operand: the override, SS for one based on BP, EBP or ESP, or DS.
cdef u32 segment_of(Insn* i) noexcept nogil
# Emit code that puts the offset of the operand into r9, without changing a flag.
cdef void offset_operand(Builder* b, Insn* i) noexcept nogil
# Whether translated code can access the operand itself.
cdef bint reaches(Builder* b, Insn* i) noexcept nogil
# Emit code that computes the address of the operand, and return the host operand.  `moved` bytes
# are added to an operand based on ESP.
cdef Ref host_operand(Builder* b, Insn* i, i32 moved) noexcept nogil
# [ESP + disp] on the stack.
cdef Ref on_stack(i32 disp) noexcept nogil
