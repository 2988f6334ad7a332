"""Translation of one fragment."""
from ringlet.translate.builder cimport Builder
from ringlet.core.template cimport Template

cdef enum:
    TRANSLATE_OK = 0
    TRANSLATE_LEARN = 1      # learn_at names the instruction
    TRANSLATE_CROSS = 2      # the first instruction goes on in the next page: give more bytes
    TRANSLATE_PROTECT = 3    # it may store over itself, time and again: not for a checked fragment

cdef int translate_fragment(Builder* b, bint indirect) noexcept nogil
cdef Template template_of(Builder* b) noexcept nogil
