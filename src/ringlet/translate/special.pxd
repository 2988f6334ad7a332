"""Bit strings, strings, LEAVE, XLAT and MOV moffs; 1: emitted, 0: for the general emulator."""
from ringlet.core.state cimport u32
from ringlet.translate.insn cimport Insn
from ringlet.translate.builder cimport Builder

cdef int emit_bits(Builder* b, Insn* i, u32 flags_dead) noexcept nogil
cdef int emit_string(Builder* b, Insn* i) noexcept nogil
cdef int emit_leave(Builder* b, Insn* i) noexcept nogil
cdef int emit_xlat(Builder* b, Insn* i, u32 flags_dead) noexcept nogil
cdef int emit_moffs(Builder* b, Insn* i) noexcept nogil
cdef int emit_gather(Builder* b, Insn* i, u32 flags_dead) noexcept nogil
