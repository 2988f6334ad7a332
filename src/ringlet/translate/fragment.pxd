"""Translation of one fragment."""
from ringlet.translate.builder cimport Builder
from ringlet.core.template cimport Template

cdef int translate_fragment(Builder* b, bint indirect) noexcept nogil
cdef Template template_of(Builder* b) noexcept nogil
