"""Innocuous instructions: the same operation with other registers and memory operand."""
from ringlet.core.state cimport u32
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Builder, Ref
from ringlet.translate.shape cimport MEM_WRITE, ROLE_WRITE

# Return 1 if the instruction was emitted, 0 if it needs the general emulator.
cdef int emit_plain(Builder* b, Insn* i, u32 flags_dead, u32 live_after) noexcept nogil
# Whether an operation on AH-DH and memory writes both, for which there is no code with REX.
cdef inline bint writes_both(Insn* i) noexcept nogil:
    return (i.shape.reg & ROLE_WRITE) != 0 and (i.shape.mem & MEM_WRITE) != 0
# Emit any other whose address needs REX; r8 or r9 is free.
cdef void emit_high_byte_at(Builder* b, Insn* i, Ref* mem) noexcept nogil
