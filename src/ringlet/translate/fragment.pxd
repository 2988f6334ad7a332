"""Translation of one fragment."""
from ringlet.translate.builder cimport Builder
from ringlet.core.template cimport Template

cdef enum:
    TRANSLATE_OK = 0
    TRANSLATE_LEARN = 1      # the shape of the instruction at learn_at is not known
    TRANSLATE_CROSS = 2      # the first instruction continues in the next page: give more bytes
    TRANSLATE_PROTECT = 3    # its repetitions may change it, so no checked fragment is possible

cdef int translate_fragment(Builder* b, bint indirect) noexcept nogil
cdef Template template_of(Builder* b) noexcept nogil
