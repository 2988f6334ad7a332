"""Translation of one fragment of 16- or 32-bit code."""
from ringlet.translate.builder cimport Builder

# As translate_fragment (ringlet.translate.fragment) does for 64-bit code.
cdef int translate_narrow(Builder* b, bint indirect) noexcept nogil
