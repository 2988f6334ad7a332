"""String instructions of 16- and 32-bit code."""
from ringlet.core.state cimport u32
from ringlet.translate.builder cimport Builder
from ringlet.translate.insn cimport Insn

# Emit MOVS, STOS, LODS, SCAS or CMPS; 0: there is no code for it.
cdef int emit_string(Builder* b, Insn* i) noexcept nogil
# Emit CLD or STD.
cdef void emit_direction(Builder* b, u32 opcode) noexcept nogil
