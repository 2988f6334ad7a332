"""Innocuous instructions: the same operation with renamed registers and a rewritten operand."""
from ringlet.core.state cimport u8, u32
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Builder, Ref

# 1: emitted; 0: the instruction needs the general emulator.
cdef int emit_plain(Builder* b, Insn* i, u32 flags_dead, u32 live_after) noexcept nogil
cdef int emit_lea(Builder* b, Insn* i) noexcept nogil
cdef void encode(Builder* b, Insn* i, u32 opcode, u32 reg, Ref* mem, u32 rm, u32 vvvv) noexcept nogil
cdef void copy_verbatim(Builder* b, Insn* i) noexcept nogil
