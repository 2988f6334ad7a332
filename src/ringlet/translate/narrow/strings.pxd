"""String instructions of 16- and 32-bit code."""
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

# Emit MOVS, STOS, LODS, SCAS or CMPS; 0: there is no code for it.
cdef int emit_string(Builder* b, Insn* i) noexcept nogil
