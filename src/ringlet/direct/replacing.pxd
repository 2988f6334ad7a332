"""Copies of refused pages, in which sensitive instructions are replaced."""
from ringlet.core.state cimport u8

# Make a copy of a page on which such instructions are replaced by HLT.  False: other bytes there
# are refused.  `before`, the page before it, can be NULL.
cdef bint page_replace(const u8* before, const u8* page, u8* copy, bint writable,
                       bint cpuid) noexcept nogil
