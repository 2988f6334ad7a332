"""Copies of refused pages, in which sensitive instructions are replaced.

HLT stands in place of each, and traps; translated code then carries out the original.  A save of
the vector state to the stack stays, with a smaller mask.  Bytes that translated code has come to
within an instruction stay as they are: they are a part of it, as of a constant.
"""
from ringlet.core.state cimport u8, u32, u64
from ringlet.direct.instructions cimport ANYWHERE, IN_SEQUENCE, PAGE
from ringlet.direct.screening cimport (
    BEFORE, MEETS, PAGE_WORDS, VECTORS, Chains, all_reach, chains_begin, chains_next, mask_of,
    page_clean, saves_on_stack)

cdef enum:
    HLT = 0xF4


cdef bint is_vdso(const u8* page) noexcept nogil:
    """Tell whether a page is the first one of Linux's vDSO, by its ELF header and its name."""
    cdef const u8* name = b"linux-vdso.so.1"
    cdef u32 i, k
    if page[0] != 0x7F or page[1] != 0x45 or page[2] != 0x4C or page[3] != 0x46:
        return False
    for i in range(PAGE - 16):
        k = 0
        while k < 16 and page[i + k] == name[k]:
            k += 1
        if k == 16:
            return True
    return False


cdef inline bint chooses_leaf(const u8* p) noexcept nogil:
    """Tell whether XOR or MOV of a leaf's number to EAX or ECX stands before these bytes."""
    if p[-2] == 0x31 or p[-2] == 0x33:
        return p[-1] == 0xC0 or p[-1] == 0xC9
    return p[-5] & 0xFE == 0xB8 and p[-3] == 0 and p[-2] == 0 and p[-1] & 0x7F == 0


cdef inline bint stores_results(const u8* p) noexcept nogil:
    """Tell whether MOV [RSI], EAX and MOV [RSI + displacement], EBX stand behind CPUID."""
    return p[2] == 0x89 and p[3] == 0x06 and p[4] == 0x89 and p[5] == 0x5E


cdef bint is_common(const u8* page, u32 at) noexcept nogil:
    """Tell whether XGETBV is at an offset, behind XOR ECX, ECX or MOV ECX, 0, or XGETBV or RDTSCP
    before SHL RDX, 32, or CPUID behind what chooses its leaf, or before what stores its
    results.  Data do not have these bytes by chance."""
    cdef const u8* p = page + at
    if at < 5 or p[0] != 0x0F:
        return False
    if p[1] == 0xA2:
        return chooses_leaf(p) or (at + 6 <= PAGE and stores_results(p))
    if p[1] != 0x01 or (p[2] != 0xD0 and p[2] != 0xF9):
        return False
    if at + 7 <= PAGE and p[3] == 0x48 and p[4] == 0xC1 and p[5] == 0xE2 and p[6] == 32:
        return True
    return p[2] == 0xD0 and (
        (p[-1] == 0xC9 and (p[-2] == 0x31 or p[-2] == 0x33))
        or (p[-5] == 0xB9 and p[-4] == 0 and p[-3] == 0 and p[-2] == 0 and p[-1] == 0))


cdef inline bint is_rare(const u8* page, u32 at) noexcept nogil:
    """Tell whether CPUID, RDPKRU or WRPKRU is at an offset, as on some pages of libraries whose
    other code is busy."""
    return page[at] == 0x0F and (
        page[at + 1] == 0xA2 or (page[at + 1] == 0x01 and page[at + 2] & 0xFE == 0xEE))


cdef bint is_known(const u8* before, const u8* page, const Chains* w, bint writable,
                   bint cpuid) noexcept nogil:
    """Tell whether a sensitive instruction can be no data, and no part of another instruction.

    Programs that write their code may read it too, and keep tables in it, so that only `is_common`
    counts on a page that is `writable`.
    """
    if not all_reach(before, page, w.at, cpuid):
        return False
    return is_common(page, w.at) or (
        w.at >= MEETS and not writable
        and (saves_on_stack(page, w.at) or (w.trusted and is_rare(page, w.at))))


cdef inline bint is_inner(const u64* inner, u32 at) noexcept nogil:
    return inner[at >> 6] >> (at & 63) & 1


cdef bint page_replace(const u8* before, const u8* page, const u64* inner, u8* copy, bint writable,
                       bint cpuid) noexcept nogil:
    cdef Chains walk
    cdef u32 i, mask
    cdef bint vdso = not writable and is_vdso(page)
    for i in range(PAGE):
        copy[i] = page[i]
    chains_begin(&walk)
    while chains_next(&walk, page, PAGE, PAGE, cpuid):
        if (walk.kind == ANYWHERE or walk.kind == IN_SEQUENCE) \
                and walk.at + walk.length < PAGE and not is_inner(inner, walk.at) \
                and ((vdso and walk.at >= MEETS) or is_known(before, page, &walk, writable, cpuid)):
            mask = mask_of(page, walk.at)
            if mask and not is_inner(inner, mask - 1):
                copy[mask] &= VECTORS
                for i in range(mask + 1, mask + 4):
                    copy[i] = 0
                continue
            for i in range(walk.at, walk.at + walk.length):
                copy[i] = HLT
    return page_clean(copy, cpuid)


cdef bint copy_leans(const u8* page, const u8* copy) noexcept nogil:
    cdef u32 i
    if is_vdso(page):
        return False
    for i in range(BEFORE):
        if page[i] != copy[i]:
            return True
    return False


def replace(page: bytes, *, before: bytes | None = None, inner: tuple[int, ...] = (),
            writable: bool = False, cpuid: bool = False) -> bytes | None:
    """Return a page on which sensitive instructions are replaced, or None if it has other bytes for
    which it is refused.  On a page that programs may write, fewer are replaced; none that begins at
    one of the offsets `inner`."""
    cdef bytearray copy = bytearray(PAGE)
    cdef const u8* first = NULL
    cdef u64[PAGE_WORDS] known
    cdef u32 i
    for i in range(PAGE_WORDS):
        known[i] = 0
    for i in inner:
        known[i >> 6] |= <u64>1 << (i & 63)
    if len(page) != PAGE or (before is not None and len(before) != PAGE):
        raise ValueError("a page has 4,096 bytes")
    if before is not None:
        first = before
    return bytes(copy) if page_replace(first, page, known, copy, writable, cpuid) else None
