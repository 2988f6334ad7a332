"""Segment registers in 16- and 32-bit code: selectors, and the loads of real mode."""
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

# Emit an instruction that reads or loads a segment register; 0: it has to leave.
cdef int emit_selector(Builder* b, Insn* i) noexcept nogil
