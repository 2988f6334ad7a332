"""Records of what windows were filled from: nodes, and chains from guest frames to mappings.

A region's nodes form a tree that mirrors the used part of the guest's tables for that region.  An
entry is *used* while something depends on it: a mapping in the window, an instruction fetch, or a
node below.  `ringlet.mmu.spaces` compares used entries with guest memory to find changes.

Every mapped leaf is also in a chain by its guest frame and page size, so that a code page can be
write-protected in all windows without a search.  `ringlet.mmu.windows` states the order in which
records and mappings change.
"""
from ringlet.core.state cimport CpuState, u32, u64
from ringlet.mmu.layout cimport (
    FRAME_XD, ENTRY_BITS, ENTRIES, Mmu, NODES, Node, PAGING_LONG, PTE_A, PTE_D, PTE_G, PTE_P,
    PTE_PS, PTE_U, PTE_W, Region, SLOT_SHIFT, Walk, entry_index, leaf_size)
from ringlet.mmu.mappings cimport settle, window_unmap
from ringlet.mmu.pages cimport PAGE_SHIFT, bit_clear, bit_set, bit_test, lowest_bit

# Bits of an entry that a mapping depends on: P, R/W, U/S, A, D, PS, G, the frame, XD.  Above a
# leaf the processor ignores D and G, and guests do not change them.
cdef enum:
    LOW_BITS = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | PTE_PS | PTE_G


cdef u32 change_of(u64 old, u64 new) noexcept nogil:
    """Class the change of an entry by what it means for mappings made from it: CHANGE_*."""
    cdef u64 diff = (old ^ new) & (LOW_BITS | FRAME_XD)
    if diff == 0:
        return CHANGE_NONE
    if diff & ~<u64>(PTE_W | PTE_D):
        return CHANGE_OTHER
    return CHANGE_LESS if old & diff else CHANGE_MORE


cdef bint fetch_changed(u64 old, u64 new) noexcept nogil:
    """Tell whether an instruction fetch through the entry could have another result now."""
    return ((old ^ new) & (PTE_P | PTE_U | PTE_A | PTE_PS | FRAME_XD)) != 0


# --- the pool

cdef void nodes_create(Mmu* m) noexcept nogil:
    # Nodes are first taken in order, so that untouched ones cost no memory.
    m.node_free = 0
    m.nodes_left = NODES - 1
    m.nodes_fresh = 1


cdef u32 node_take(Mmu* m, Region* r, u32 level, u32 form, u64 table,
                   u64 linear) noexcept nogil:
    """Take a node with no used entry from the pool.  The caller made sure that one is left."""
    cdef u32 index = m.node_free
    cdef Node* node
    cdef u32 i
    if index:
        node = &m.nodes[index]
        m.node_free = node.free
    else:
        index = m.nodes_fresh
        m.nodes_fresh += 1
        node = &m.nodes[index]
    m.nodes_left -= 1
    node.region = <u32>(r - &m.regions[0])
    node.table = table
    node.form = form
    node.level = level
    node.linear = linear & ~((leaf_size(level) << ENTRY_BITS) - 1)
    for i in range(8):
        node.used[i] = 0
        node.check[i] = 0
        node.mapped[i] = 0
        node.writable[i] = 0
        node.fetched[i] = 0
        node.runs[i] = 0
        node.down[i] = 0
    return index


cdef inline void node_give(Mmu* m, u32 index) noexcept nogil:
    m.nodes[index].free = m.node_free
    m.node_free = index
    m.nodes_left += 1


# --- chains of mapped leaves

cdef u64 leaf_phys(Mmu* m, Node* node, u32 entry) noexcept nogil:
    """Guest physical address of the first byte a leaf maps."""
    return node.copy[entry] & m.frame_mask & ~(leaf_size(node.level) - 1)


cdef inline u32* chain_head(Mmu* m, Node* node, u32 entry) noexcept nogil:
    cdef u64 phys = leaf_phys(m, node, entry)
    if node.level == 1:
        return &m.head4k[phys >> 12]
    if node.level == 2:
        return &m.head2m[phys >> 21]
    return &m.head1g[phys >> 30]


cdef void leaf_link(Mmu* m, Region* r, u32 index, u32 entry, bint writable) noexcept nogil:
    """Put a used leaf that has been mapped in its window in the chain of its frame."""
    cdef Node* node = &m.nodes[index]
    cdef u32 chained = index << ENTRY_BITS | entry
    cdef u32* head
    if writable:
        bit_set(node.writable, entry)
    else:
        bit_clear(node.writable, entry)
    if bit_test(node.mapped, entry):
        return
    bit_set(node.mapped, entry)
    head = chain_head(m, node, entry)
    node.prev[entry] = 0
    node.next[entry] = head[0]
    if head[0]:
        m.nodes[head[0] >> ENTRY_BITS].prev[head[0] & (ENTRIES - 1)] = chained
    head[0] = chained
    if node.level == 1:
        r.small += 1
    else:
        r.large += 1


cdef void leaf_unlink(Mmu* m, Region* r, Node* node, u32 entry) noexcept nogil:
    cdef u32 after = node.next[entry]
    cdef u32 before = node.prev[entry]
    if before:
        m.nodes[before >> ENTRY_BITS].next[before & (ENTRIES - 1)] = after
    else:
        chain_head(m, node, entry)[0] = after
    if after:
        m.nodes[after >> ENTRY_BITS].prev[after & (ENTRIES - 1)] = before
    bit_clear(node.mapped, entry)
    bit_clear(node.writable, entry)
    bit_clear(node.runs, entry)
    if node.level == 1:
        r.small -= 1
    else:
        r.large -= 1


# --- translations fetched through entries that change

cdef void flush_code(CpuState* c, Mmu* m) noexcept nogil:
    """Tell the code cache about the range gathered by `note_code`."""
    cdef u64 low = m.code_low
    cdef u64 high = m.code_high
    if low != high:
        m.code_low = 0
        m.code_high = 0
        if m.unmapped != NULL:
            m.unmapped(c, low, (high - low) >> PAGE_SHIFT)


cdef void note_code(CpuState* c, Mmu* m, u64 low, u64 high) noexcept nogil:
    """Remember that the mapping of low..high, from which instructions were fetched, is gone."""
    if m.quiet:
        return
    if m.code_high == low and m.code_low != m.code_high:
        m.code_high = high
        return
    flush_code(c, m)
    m.code_low = low
    m.code_high = high


# --- forgetting

cdef u64 forget(CpuState* c, Mmu* m, Region* r, u32 index, u32 entry) noexcept nogil:
    """Stop depending on an entry and on everything below it.  Return the number of pages that were
    mapped because of it; the caller has to unmap them."""
    cdef Node* node = &m.nodes[index]
    cdef u64 low = node.linear + entry * leaf_size(node.level)
    cdef u64 pages = 0
    bit_clear(node.used, entry)
    bit_clear(node.check, entry)
    if bit_test(node.down, entry):
        bit_clear(node.down, entry)
        pages = forget_node(c, m, r, node.next[entry])
    elif bit_test(node.mapped, entry):
        leaf_unlink(m, r, node, entry)
        pages = leaf_size(node.level) >> PAGE_SHIFT
    if bit_test(node.fetched, entry):
        bit_clear(node.fetched, entry)
        note_code(c, m, low, low + leaf_size(node.level))
    return pages


cdef u64 forget_node(CpuState* c, Mmu* m, Region* r, u32 index) noexcept nogil:
    cdef Node* node = &m.nodes[index]
    cdef u64 pages = 0
    cdef u64 word
    cdef u32 i
    for i in range(8):
        word = node.used[i]
        while word:
            pages += forget(c, m, r, index, i * 64 + lowest_bit(word))
            word &= word - 1
    node_give(m, index)
    return pages


cdef u64 forget_region(CpuState* c, Mmu* m, Region* r) noexcept nogil:
    """Stop depending on anything in the region.  Return the number of pages that were mapped."""
    cdef u64 pages = 0
    if r.top:
        pages = forget_node(c, m, r, r.top)
        r.top = 0
    r.check = 0
    r.wp0 = 0
    r.pml4e = 0
    return pages


# --- recording

cdef void empty_region(CpuState* c, Mmu* m, Region* r) noexcept nogil:
    """Drop everything that is mapped in a region, which stays with its slot."""
    forget_region(c, m, r)
    window_unmap(m, r, r.linear, <u64>1 << SLOT_SHIFT)
    r.holes = 0
    settle(m, r)


cdef u32 record(CpuState* c, Mmu* m, Region* r, Walk* w, bint refill) noexcept nogil:
    """Record every entry of a successful walk as it is after accessed and dirty bits were set.

    If an entry differs from the one used before, what came from that is dropped.  `refill` says
    that the caller is about to map a 4-KiB leaf over what is there, which then need not be
    unmapped.  Return the leaf's node.  Three nodes must be left.
    """
    cdef u32 level = 3
    cdef u32 index, entry, child
    cdef Node* node
    cdef bint local = not (m.pge and w.entry[w.leaf] & PTE_G)
    if r.top and (m.nodes[r.top].table != w.table[3] or m.nodes[r.top].form != w.form[3]
                  or (m.mode == PAGING_LONG
                      and change_of(r.pml4e, w.entry[4]) >= CHANGE_LESS)):
        empty_region(c, m, r)
    if not r.top:
        r.top = node_take(m, r, 3, w.form[3], w.table[3], r.linear)
    if m.mode == PAGING_LONG:
        r.pml4e = w.entry[4]
    if local:
        r.check = 1
    else:
        m.owners[r.owner].global_pages = 1
    index = r.top
    while True:
        node = &m.nodes[index]
        entry = entry_index(w.linear, level)
        if (bit_test(node.used, entry)
                and change_of(node.copy[entry], w.entry[level]) >= CHANGE_LESS):
            if forget(c, m, r, index, entry) and not (refill and level == 1):
                window_unmap(m, r, w.linear & ~(leaf_size(level) - 1), leaf_size(level))
                settle(m, r)
        bit_set(node.used, entry)
        node.copy[entry] = w.entry[level]
        if local:
            bit_set(node.check, entry)
        if level == w.leaf:
            return index
        if not bit_test(node.down, entry):
            child = node_take(m, r, level - 1, w.form[level - 1], w.table[level - 1],
                              w.linear)
            node.next[entry] = child
            bit_set(node.down, entry)
        index = node.next[entry]
        level -= 1
