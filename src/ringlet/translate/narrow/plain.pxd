"""Innocuous instructions of 16- and 32-bit code."""
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

# Emit the instruction; 0: there is no code for it.
cdef int emit_narrow_plain(Builder* b, Insn* i) noexcept nogil
