"""Innocuous instructions: the same operation with other registers and memory operand."""
from ringlet.core.state cimport u32
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Builder

# Return 1 if the instruction was emitted, 0 if it needs the general emulator.
cdef int emit_plain(Builder* b, Insn* i, u32 flags_dead, u32 live_after) noexcept nogil
