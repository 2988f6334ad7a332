"""Translation of one fragment of 16- or 32-bit code."""
from ringlet.core.state cimport KEY_MODE64
from ringlet.translate.builder cimport Builder
from ringlet.translate.fragment cimport translate_fragment

# As translate_fragment (ringlet.translate.fragment) does for 64-bit code.
cdef int translate_narrow(Builder* b, bint indirect) noexcept nogil

cdef inline int translate(Builder* b, bint indirect) noexcept nogil:
    """Translate code of any mode."""
    return translate_fragment(b, indirect) if b.key & KEY_MODE64 else translate_narrow(b, indirect)
