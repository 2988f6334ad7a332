"""Address spaces and their groups: CR3 loads, flushes, INVLPG.

Writes to page tables are not traced.  At the events after which the guest may expect a change to
have taken effect, the used entries are compared with guest memory, and only what came from changed
entries is dropped, in ranges.  Upper entries are compared before lower ones, because a table that
no entry points to any more may hold anything.

The upper half belongs to a *group*: all address spaces whose PML4 entries 256..511 agree.
"""
from ringlet.core.control_bits cimport CR4_PSE
from ringlet.core.state cimport CpuState, u32, u64, SLOT_COUNT, SLOT_LOW, SLOT_SHIFT, is_canonical
from ringlet.mmu.layout cimport (
    A20, ALL_REGIONS, FRAME_XD, FORM_64, GROUPS, Mmu, Node, PAGING_LONG, PAGING_OFF, PAGING_PAE,
    PTE_A, PTE_P, PTE_PS, PTE_U, PTE_W, Region, SPACES, Walk, entry_index, in_upper_half,
    leaf_rights, leaf_size, load_entry, slot_region, tlb_flush)
from ringlet.mmu.mappings cimport settle, window_protect, window_unmap
from ringlet.mmu.pages cimport PAGE_SHIFT, bit_clear, bit_test, lowest_bit
from ringlet.mmu.ram cimport is_ram, ram_at
from ringlet.mmu.records cimport (
    CHANGE_LESS, CHANGE_MORE, CHANGE_NONE, CHANGE_OTHER, change_of, empty_region, flush_code,
    forget)
from ringlet.mmu.regions cimport (
    direct_region, evict, install, name_anew, oldest, strip, uninstall)
from ringlet.mmu.walker cimport load_pdptes, read_paging_mode, walk
from ringlet.mmu.windows cimport fill

cdef enum:
    FIRST_GROUP = 1 + SPACES
    RANGE_NONE = 0
    RANGE_DROP = 1
    RANGE_PROTECT = 2
    TOP_BITS = PTE_P | PTE_W | PTE_U | PTE_PS  # with the frame and XD; not A


# --- comparing

cdef void flush_range(CpuState* c, Mmu* m, Region* r) noexcept nogil:
    """Carry out what `add_range` gathered."""
    if m.range_kind == RANGE_DROP:
        window_unmap(m, r, m.range_low, m.range_high - m.range_low)
    elif m.range_kind == RANGE_PROTECT:
        window_protect(m, r, m.range_low, m.range_high - m.range_low, m.range_rights)
    m.range_kind = RANGE_NONE


cdef bint keeps_mapped(Node* node, u32 low, u32 high) noexcept nogil:
    """Whether anything in entries low..high-1 stays mapped."""
    cdef u32 i
    for i in range(low, high):
        if (node.mapped[i >> 6] | node.down[i >> 6]) == 0 and i & 63 == 0 and i + 64 <= high:
            continue
        if bit_test(node.mapped, i) or bit_test(node.down, i):
            return True
    return False


cdef void add_range(CpuState* c, Mmu* m, Region* r, Node* node, u32 entry,
                    u32 kind) noexcept nogil:
    """Gather neighbouring entries that need the same call.  A range to be dropped may include
    entries with nothing mapped."""
    cdef u64 size = leaf_size(node.level)
    cdef u64 low = node.linear + entry * size
    if m.range_kind == kind and (m.range_high == low or (
            kind == RANGE_DROP and not keeps_mapped(
                node, <u32>((m.range_high - node.linear) // size), entry))):
        m.range_high = low + size
        return
    flush_range(c, m, r)
    m.range_kind = kind
    m.range_low = low
    m.range_high = low + size


cdef u64 compare_node(CpuState* c, Mmu* m, Region* r, u32 index, bint everything) noexcept nogil:
    """Bring a node up to date with guest memory.  Return the number of pages dropped."""
    cdef Node* node = &m.nodes[index]
    cdef u64 pages = 0
    cdef u64 bits, entry_now, gone
    cdef bint plain = node.form == FORM_64 and is_ram(m.ram, node.table)
    cdef u64* table = <u64*>ram_at(m.ram, node.table) if plain else NULL
    cdef u32 word, entry, change
    for word in range(8):
        bits = node.used[word] if everything else node.check[word]
        while bits:
            entry = word * 64 + lowest_bit(bits)
            bits &= bits - 1
            entry_now = table[entry] if table != NULL else load_entry(
                m, node.form, node.table, entry)
            change = CHANGE_NONE
            if entry_now != node.copy[entry]:
                change = change_of(node.copy[entry], entry_now)
            if change == CHANGE_LESS and (node.level > 1 or bit_test(node.down, entry)):
                change = CHANGE_OTHER
            if change == CHANGE_OTHER:
                gone = forget(c, m, r, index, entry)
                if gone:
                    pages += gone
                    add_range(c, m, r, node, entry, RANGE_DROP)
                continue
            node.copy[entry] = entry_now
            if change == CHANGE_LESS and bit_test(node.writable, entry):
                bit_clear(node.writable, entry)
                if m.range_rights != leaf_rights(node, entry, False):
                    flush_range(c, m, r)
                    m.range_rights = leaf_rights(node, entry, False)
                add_range(c, m, r, node, entry, RANGE_PROTECT)
            elif bit_test(node.down, entry):
                flush_range(c, m, r)
                pages += compare_node(c, m, r, node.next[entry], everything)
    flush_range(c, m, r)
    return pages


cdef u64 compare_region(CpuState* c, Mmu* m, Region* r, bint everything) noexcept nogil:
    """Bring a region of the current space up to date.  Return the number of pages dropped."""
    cdef u64 pml4e, pages
    cdef u32 change
    if not r.top or not (everything or r.check):
        return 0
    if m.mode == PAGING_LONG:
        pml4e = load_entry(m, FORM_64, c.arch.cr3 & m.frame_mask, entry_index(r.linear, 4))
        change = change_of(r.pml4e, pml4e)
        if change >= CHANGE_LESS:
            pages = r.small + r.large
            empty_region(c, m, r)
            return pages
        r.pml4e = pml4e
    pages = compare_node(c, m, r, r.top, everything)
    if pages:
        settle(m, r)
    return pages


cdef void compare_owner(CpuState* c, Mmu* m, u32 owner) noexcept nogil:
    """Bring an owner's regions up to date.  If nothing is left in them, then a program has ended,
    and another one has its tables in the same place."""
    cdef u32 i = m.owners[owner].regions
    cdef bint everything = not m.pge or m.owners[owner].epoch != m.epoch
    cdef u64 dropped = 0, left = 0
    while i:
        dropped += compare_region(c, m, &m.regions[i], everything)
        left += m.regions[i].small + m.regions[i].large
        i = m.regions[i].next
    if dropped and not left:
        m.owners[owner].programs += 1
        m.owners[owner].crowded = 0
    c.n_cr3_dropped += dropped
    m.owners[owner].epoch = m.epoch


# --- choosing the current address space

cdef u32 owner_take(CpuState* c, Mmu* m, u32 low, u32 high, u64 key) noexcept nogil:
    """Take a free owner of an index range.  If there is none, evict the oldest."""
    cdef u32 i, found = 0
    for i in range(low, high):
        if not m.owners[i].id:
            found = i
            break
    if not found:
        if low < FIRST_GROUP:
            c.n_spaces_full += 1
        else:
            c.n_groups_full += 1
        found = oldest(m, low, high)
        evict(c, m, found)
    name_anew(m, found)
    m.owners[found].key = key
    m.owners[found].crowded = 0
    return found


cdef u64 space_key(CpuState* c, Mmu* m) noexcept nogil:
    """Return what identifies an address space: its root and the paging mode.  It is never 0."""
    cdef u64 root = c.arch.cr3 & m.frame_mask
    if m.mode == PAGING_OFF:
        root = A20 if m.a20_masked else 0
    elif m.mode == PAGING_PAE:
        # The root is aligned to 32 bytes here, so its low bits do not overlap the mode's.
        root = c.arch.cr3 & <u64>0xFFFFFFE0
    return root << 8 | 0x10 | m.mode


cdef u32 find_space(CpuState* c, Mmu* m) noexcept nogil:
    cdef u64 key = space_key(c, m)
    cdef u32 i
    if m.owners[m.space].key == key:
        return m.space
    for i in range(1, FIRST_GROUP):
        if m.owners[i].key == key:
            return i
    return owner_take(c, m, 1, FIRST_GROUP, key)


cdef bint agrees(Mmu* m, u32 group, const u64* top) noexcept nogil:
    cdef u64* known = m.group_top[group - FIRST_GROUP]
    cdef u64 diff = 0
    cdef u32 i
    for i in range(256):
        diff |= known[i] ^ top[i]
        if diff & (TOP_BITS | FRAME_XD):
            return False
    return True


cdef u32 members(Mmu* m, u32 group) noexcept nogil:
    cdef u32 i, count = 0
    for i in range(1, FIRST_GROUP):
        if m.owners[i].id and m.owners[i].group == group:
            count += 1
    return count


cdef u32 find_group(CpuState* c, Mmu* m, u32 space) noexcept nogil:
    """Return the group of an address space, by the present upper half of its table."""
    cdef u64 upper = (c.arch.cr3 & m.frame_mask) + 2048
    cdef u32 old = m.owners[space].group
    cdef u32 i, found = 0
    cdef const u64* top
    if m.mode != PAGING_LONG or not is_ram(m.ram, upper):
        return 0
    top = <const u64*>ram_at(m.ram, upper)
    if old and agrees(m, old, top):
        return old
    for i in range(FIRST_GROUP, FIRST_GROUP + GROUPS):
        if i != old and m.owners[i].id and agrees(m, i, top):
            found = i
            break
    if not found and old and members(m, old) == 1:
        # No other space is in the group.  Its regions compare their own PML4 entries.
        found = old
    m.owners[space].group = 0
    if old and old != found and not members(m, old):
        if m.group == old:
            uninstall(c, m, old)
            m.group = 0
        evict(c, m, old)
    if not found:
        found = owner_take(c, m, FIRST_GROUP, FIRST_GROUP + GROUPS, 0)
    for i in range(256):
        m.group_top[found - FIRST_GROUP][i] = top[i]
    return found


cdef void renew_owner(CpuState* c, Mmu* m, u32 owner) noexcept nogil:
    """Empty an owner and give it another identity, because something was not recorded for it."""
    strip(c, m, owner)
    name_anew(m, owner)


cdef void switch_space(CpuState* c, Mmu* m) noexcept nogil:
    cdef u32 space, group
    m.last_page = 0
    if m.mode == PAGING_PAE:
        load_pdptes(c, m)
    space = find_space(c, m)
    if space != m.space:
        uninstall(c, m, m.space)
        m.space = space
    group = find_group(c, m, space)
    if group != m.group:
        uninstall(c, m, m.group)
        m.group = group
    m.owners[space].group = group
    m.clock += 1
    m.owners[space].stamp = m.clock
    m.owners[group].stamp = m.clock
    if m.owners[space].unrecorded:
        renew_owner(c, m, space)
    compare_owner(c, m, space)
    install(c, m, space)
    if group:
        if m.owners[group].unrecorded:
            renew_owner(c, m, group)
        compare_owner(c, m, group)
        install(c, m, group)
    flush_code(c, m)


cdef void load_cr3(CpuState* c, Mmu* m) noexcept nogil:
    tlb_flush(m)
    c.n_cr3_loads += 1
    switch_space(c, m)


# --- flushes

cdef void flush_all(CpuState* c, Mmu* m) noexcept nogil:
    """Take over CR0, CR4 and EFER, and compare everything, including global pages."""
    cdef u64 pse = m.cr4 & CR4_PSE
    cdef u64 nx = m.nx
    cdef u32 wp = m.wp
    cdef u32 mode = m.mode
    cdef u32 phys_bits = m.phys_bits
    cdef bint reread
    cdef u32 i
    tlb_flush(m)
    read_paging_mode(c, m)
    m.epoch += 1
    # If the meaning of entries has changed, everything that was filled from them is dropped.
    reread = pse != m.cr4 & CR4_PSE or phys_bits != m.phys_bits or (mode == m.mode and nx != m.nx)
    if mode != m.mode and nx != m.nx:
        reread = True
    for i in range(1, FIRST_GROUP + GROUPS):
        if reread and m.owners[i].id and i != m.space and i != m.group:
            evict(c, m, i)
    for i in range(1, ALL_REGIONS):
        if m.regions[i].owner and (reread or (m.regions[i].wp0 and m.wp and not wp)):
            empty_region(c, m, &m.regions[i])
    switch_space(c, m)


# --- INVLPG

cdef bint quietly(Mmu* m, Region* r, Walk* w) noexcept nogil:
    """Tell whether a walk's page may be mapped before it is touched: no bit has to be set in the
    guest's tables, and the region may show the page."""
    cdef u32 level
    for level in range(w.leaf, w.top + 1):
        if not w.entry[level] & PTE_A and (level < 4 or m.mode == PAGING_LONG):
            return False
    return (w.user or not r.user) and is_ram(m.ram, w.phys)


cdef void invalidate(CpuState* c, Mmu* m, u32 region, u64 linear) noexcept nogil:
    cdef Region* r = &m.regions[region]
    cdef u32 index = r.top
    cdef u32 level = 3
    cdef u32 entry = 0
    cdef u32 change = CHANGE_NONE
    cdef u64 now = 0
    cdef u64 size = 0
    cdef u64 pml4e
    cdef Node* node = NULL
    cdef Walk w
    cdef bint mapped
    if not index:
        return
    if m.mode == PAGING_LONG:
        pml4e = load_entry(m, FORM_64, c.arch.cr3 & m.frame_mask, entry_index(linear, 4))
        if change_of(r.pml4e, pml4e) >= CHANGE_LESS:
            empty_region(c, m, r)
            return
        r.pml4e = pml4e
    while True:
        node = &m.nodes[index]
        entry = entry_index(linear, level)
        size = leaf_size(level)
        if not bit_test(node.used, entry):
            return
        now = load_entry(m, node.form, node.table, entry)
        change = change_of(node.copy[entry], now)
        if not bit_test(node.down, entry):
            break
        if change >= CHANGE_LESS:
            if forget(c, m, r, index, entry):
                window_unmap(m, r, linear & ~(size - 1), size)
                settle(m, r)
            return
        node.copy[entry] = now
        index = node.next[entry]
        level -= 1
    mapped = bit_test(node.mapped, entry)
    if change == CHANGE_LESS and level == 1:
        node.copy[entry] = now
        if bit_test(node.writable, entry):
            bit_clear(node.writable, entry)
            window_protect(m, r, linear & ~(size - 1), size, leaf_rights(node, entry, False))
            settle(m, r)
        return
    if change == CHANGE_NONE or (change == CHANGE_MORE and not mapped):
        node.copy[entry] = now
        return
    if change != CHANGE_MORE:
        forget(c, m, r, index, entry)
        if not mapped:
            return
    # One call both drops the old page and shows the new one, and the next touch needs no signal.
    if walk(c, m, linear, &w) and quietly(m, r, &w):
        if level == 1 and w.leaf == 1:
            fill(c, m, region, &w, False)
            return
        window_unmap(m, r, linear & ~(size - 1), size)
        fill(c, m, region, &w, False)
        return
    window_unmap(m, r, linear & ~(size - 1), size)
    settle(m, r)


cdef void forget_unrecorded(CpuState* c, Mmu* m, u32 owner, u64 linear) noexcept nogil:
    """Drop the code at `linear` if fetches of its owner may have been recorded nowhere.

    The page may have been as large as pages get.
    """
    cdef u64 size = leaf_size(3)
    if m.owners[owner].unrecorded and m.unmapped != NULL:
        m.unmapped(c, linear & ~(size - 1), size >> PAGE_SHIFT)


cdef void invalidate_slot(CpuState* c, Mmu* m, u32 slot, u64 linear) noexcept nogil:
    """Invalidate a page in the regions of both privileges."""
    cdef u32 kernel = slot_region(c, m, slot, False), user = slot_region(c, m, slot, True)
    if kernel:
        invalidate(c, m, kernel, linear)
    if user and user != kernel:
        invalidate(c, m, user, linear)


cdef void invlpg(CpuState* c, Mmu* m, u64 linear) noexcept nogil:
    cdef u32 slot, direct, i
    tlb_flush(m)
    c.n_invlpg += 1
    m.last_page = 0
    if m.mode != PAGING_LONG:
        linear &= <u64>0xFFFFFFFF
    elif not is_canonical(linear):
        return
    slot = <u32>(linear >> SLOT_SHIFT) & (SLOT_COUNT - 1)
    # Global translations belong to all address spaces: the others have to drop theirs as well.
    for i in range(1, FIRST_GROUP + GROUPS):
        if m.owners[i].global_pages and i != m.space and i != m.group:
            m.owners[i].epoch = 0
    invalidate_slot(c, m, slot, linear)
    if not linear >> 32:
        invalidate_slot(c, m, SLOT_LOW, linear)
    direct = direct_region(m, slot)
    if direct:
        invalidate(c, m, direct, linear)
    flush_code(c, m)
    forget_unrecorded(c, m, m.group if in_upper_half(slot) else m.space, linear)
