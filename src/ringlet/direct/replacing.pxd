"""Copies of refused pages, in which sensitive instructions are replaced."""
from ringlet.core.state cimport u8, u64

# Make a copy of a page on which such instructions are replaced by HLT.  False: other bytes there
# are refused.  `before`, the page before it, can be NULL.  `inner` is a bitmap of the bytes that are
# known to be within instructions.
cdef bint page_replace(const u8* before, const u8* page, const u64* inner, u8* copy, bint writable,
                       bint cpuid) noexcept nogil
# Tell whether a copy depends on the page before it.
cdef bint copy_leans(const u8* page, const u8* copy) noexcept nogil
