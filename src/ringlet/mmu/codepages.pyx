"""The code pages of guest RAM in this processor's windows: never writable there.

RAM's bitmap names them (`ringlet.mmu.ram`).  Every mapping consults it.  Marking a page visits
the chains of mapped leaves, so its cost depends only on the number of windows that show the page.
A page that many of them show is unmapped in all but the newest: the program behind them may have
ended, and the others fault once more.
"""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport ENTRIES, ENTRY_BITS, Mmu, Node, Region, leaf_rights, leaf_size
from ringlet.mmu.mappings cimport settle, window_map, window_protect, window_unmap
from ringlet.mmu.pages cimport PAGE_SHIFT, PAGE_SIZE, bit_clear, bit_test, lowest_bit
from ringlet.mmu.records cimport leaf_unlink
from ringlet.mmu.regions cimport make_room

cdef enum:
    CHAIN_MAX = 32           # windows in which the rights of one page are changed


cdef void unmap_chain(Mmu* m, u32 chained) noexcept nogil:
    """Unmap a chain's leaves, from one of them to the last."""
    cdef Node* node
    cdef Region* r
    cdef u32 entry
    while chained:
        node = &m.nodes[chained >> ENTRY_BITS]
        entry = chained & (ENTRIES - 1)
        r = &m.regions[node.region]
        chained = node.next[entry]
        leaf_unlink(m, r, node, entry)
        window_unmap(m, r, node.linear + entry * leaf_size(node.level), leaf_size(node.level))
        settle(m, r)


cdef void protect_chain(Mmu* m, u32 chained, u64 phys, bint writable) noexcept nogil:
    """Change one page's protection in every window of a chain that may be written through.  A
    direct process may execute only code pages."""
    cdef Node* node
    cdef Region* r
    cdef u64 size
    cdef u32 entry
    cdef u32 visited = 0
    cdef bint ran
    while chained:
        if visited == CHAIN_MAX:
            unmap_chain(m, chained)
            return
        visited += 1
        node = &m.nodes[chained >> ENTRY_BITS]
        entry = chained & (ENTRIES - 1)
        r = &m.regions[node.region]
        ran = r.direct and writable and (node.level > 1 or bit_test(node.runs, entry))
        if ran:
            bit_clear(node.runs, entry)
        if ran and bit_test(m.ram.replaced, phys >> PAGE_SHIFT):
            # A copy is shown there.
            window_map(m, r, node.linear + entry * leaf_size(node.level)
                       + (phys & (leaf_size(node.level) - 1)), phys, PAGE_SIZE, 0,
                       leaf_rights(node, entry, writable and bit_test(node.writable, entry)))
        elif ran or bit_test(node.writable, entry):
            size = leaf_size(node.level)
            window_protect(m, r, node.linear + entry * size + (phys & (size - 1)), PAGE_SIZE,
                           leaf_rights(node, entry, writable and bit_test(node.writable, entry)))
            if node.level > 1:
                if not writable:
                    r.holes += 1
                elif r.holes:
                    r.holes -= 1
            settle(m, r)
        chained = node.next[entry]


cdef void set_page_rights(CpuState* c, u64 phys_page, bint writable) noexcept nogil:
    """RAM calls this (`ringlet.mmu.ram.rights_hook`) when a page becomes a code page or ceases to
    be one."""
    cdef Mmu* m = <Mmu*>c.mmu
    if not writable:
        make_room(c, m)
        # The next write fault on the page has a new cause and is not counted as a repetition.
        m.last_page = 0
    protect_chain(m, m.head4k[phys_page >> 12], phys_page, writable)
    protect_chain(m, m.head2m[phys_page >> 21], phys_page, writable)
    protect_chain(m, m.head1g[phys_page >> 30], phys_page, writable)


cdef void protect_run(Mmu* m, Region* r, u64 linear, u64 phys, u64 size,
                      u32 rights) noexcept nogil:
    """Write-protect the code pages of a run that was just mapped for writing."""
    cdef const u64* code = m.ram.code
    cdef u64 page = phys >> PAGE_SHIFT
    cdef u64 end = (phys + size) >> PAGE_SHIFT
    cdef u64 start, word
    while page < end:
        word = code[page >> 6] >> (page & 63)
        if not word:
            page = (page | 63) + 1
            continue
        page += lowest_bit(word)
        start = page
        while page < end and bit_test(code, page):
            page += 1
        if start < page:
            window_protect(m, r, linear + ((start << PAGE_SHIFT) - phys),
                           (page - start) << PAGE_SHIFT, rights)
            r.holes += <u32>(page - start)
