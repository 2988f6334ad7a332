"""Learned shapes of one translator."""
from ringlet.core.state cimport u8, u16, u32
from ringlet.translate.insn cimport ShapeTable

cdef class LearnTable:
    cdef ShapeTable t
    cdef object learner
    cdef readonly object features   # whose instructions exist
    cdef list keys       # of the shapes from number 2 on
    cpdef learn(self, bytes code)
