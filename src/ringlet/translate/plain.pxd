"""Innocuous instructions: the same operation with renamed registers and a rewritten operand."""
from ringlet.core.state cimport u32
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Builder

# 1: emitted; 0: the instruction needs the general emulator.
cdef int emit_plain(Builder* b, Insn* i, u32 flags_dead, u32 live_after) noexcept nogil
