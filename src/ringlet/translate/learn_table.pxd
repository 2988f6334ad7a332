"""Learned shapes of one translator."""
from ringlet.core.state cimport u8, u16, u32, u64
from ringlet.translate.insn cimport ShapeTable

cdef class LearnTable:
    cdef ShapeTable t
    cdef object parse
    cdef object learn_key
    cdef readonly object features   # features whose instructions exist
    cdef list keys          # keys of the shapes, by number, from SHAPE_OF_NONE + 1
    cdef readonly u64 emptied
    cpdef bint learn(self, bytes code) except -1
    cdef add(self, u32 key, const unsigned char[::1] row)
    cdef forget(self)

cdef class LearnTables:
    cdef readonly tuple all      # of 64-, 32- and 16-bit code
    cdef LearnTable of(self, ShapeTable* t)
