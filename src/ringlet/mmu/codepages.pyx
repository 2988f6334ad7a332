"""Pages of guest RAM that translations come from: never writable in a window.

A bitmap names them.  Mapping consults it, and marking a page goes through the chains of mapped
leaves, so that its cost is that of the windows which show the page and no more.
"""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.mappings cimport window_protect, settle
from ringlet.mmu.layout cimport (
    ENTRIES, ENTRY_BITS, Mmu, Node, PAGE_SHIFT, PAGE_SIZE, Region, bit_clear, bit_set, bit_test,
    leaf_size, lowest_bit, ram_offset)
from ringlet.mmu.regions cimport make_room


cdef bint is_code(Mmu* m, u64 offset) noexcept nogil:
    return bit_test(m.code, offset >> PAGE_SHIFT)


cdef void protect_chain(Mmu* m, u32 chained, u64 offset, bint writable) noexcept nogil:
    """Change one page's protection in every window of a chain that may be written through."""
    cdef Node* node
    cdef Region* r
    cdef u64 size
    cdef u32 entry
    while chained:
        node = &m.nodes[chained >> ENTRY_BITS]
        entry = chained & (ENTRIES - 1)
        if bit_test(node.writable, entry):
            r = &m.regions[node.region]
            size = leaf_size(node.level)
            window_protect(m, r, node.linear + entry * size + (offset & (size - 1)), PAGE_SIZE,
                         writable)
            if node.level > 1:
                if not writable:
                    r.holes += 1
                elif r.holes:
                    r.holes -= 1
            settle(m, r)
        chained = node.next[entry]


cdef void protect_all(Mmu* m, u64 offset, bint writable) noexcept nogil:
    offset &= ~<u64>(PAGE_SIZE - 1)
    protect_chain(m, m.head4k[offset >> 12], offset, writable)
    protect_chain(m, m.head2m[offset >> 21], offset, writable)
    protect_chain(m, m.head1g[offset >> 30], offset, writable)


cdef void protect_code(CpuState* c, Mmu* m, u64 phys) noexcept nogil:
    cdef u64 offset = ram_offset(m, phys)
    if offset == ~<u64>0 or is_code(m, offset):
        return
    make_room(c, m)
    # The next write fault on it is news, not a repetition.
    m.last_page = 0
    bit_set(m.code, offset >> PAGE_SHIFT)
    protect_all(m, offset, False)


cdef void unprotect_code(CpuState* c, Mmu* m, u64 phys) noexcept nogil:
    cdef u64 offset = ram_offset(m, phys)
    if offset == ~<u64>0 or not is_code(m, offset):
        return
    bit_clear(m.code, offset >> PAGE_SHIFT)
    protect_all(m, offset, True)


cdef void about_to_write(CpuState* c, Mmu* m, u64 phys) noexcept nogil:
    """Guest RAM at `phys` is about to change: let the code cache drop what came from its page."""
    cdef u64 offset = ram_offset(m, phys)
    if offset == ~<u64>0 or not is_code(m, offset):
        return
    if m.written != NULL:
        m.written(c, phys & ~<u64>(PAGE_SIZE - 1))
    unprotect_code(c, m, phys)


cdef void protect_run(Mmu* m, Region* r, u64 linear, u64 offset, u64 size) noexcept nogil:
    """Write-protect the code pages of a run that was just mapped for writing."""
    cdef u64 page = offset >> PAGE_SHIFT
    cdef u64 end = (offset + size) >> PAGE_SHIFT
    cdef u64 start, word
    while page < end:
        word = m.code[page >> 6] >> (page & 63)
        if not word:
            page = (page | 63) + 1
            continue
        page += lowest_bit(word)
        start = page
        while page < end and bit_test(m.code, page):
            page += 1
        if start < page:
            window_protect(m, r, linear + ((start << PAGE_SHIFT) - offset),
                         (page - start) << PAGE_SHIFT, False)
            r.holes += <u32>(page - start)
