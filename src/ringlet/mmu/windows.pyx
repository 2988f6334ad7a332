"""Windows: filling regions from walks.

A host fault in a region is walked in the guest's tables.  What the walk allows is mapped, in the
longest run that is contiguous in both spaces and that the guest has already touched; what it does
not allow is the guest's own #PF.
"""
from ringlet.core.state cimport (
    CpuState, u32, u64, ACC_FETCH, ACC_USER, ACC_WRITE, MEM_FAULT, MEM_MMIO, MEM_OK, SLOT_COUNT,
    SLOT_SHIFT, is_canonical)
from ringlet.mmu.codepages cimport protect_run
from ringlet.mmu.layout cimport (
    AHEAD_MAX, FRAME_XD, ENTRIES, FORM_64, Mmu, Node, PAGING_LONG, PTE_A, PTE_D, PTE_G, PTE_P,
    PTE_PS, PTE_U, PTE_W, Region, SPACES, Walk, entry_index, leaf_size, load_entry, slot_region)
from ringlet.mmu.mappings cimport settle, window_map, window_unmap
from ringlet.mmu.pages cimport PAGE_SHIFT, bit_set, bit_test
from ringlet.mmu.ram cimport about_to_write, is_code, is_ram, ram_left
from ringlet.mmu.records cimport CHANGE_LESS, change_of, flush_code, leaf_link, leaf_phys, record
from ringlet.mmu.regions cimport make_room, region_of_host, region_share, region_split, region_take
from ringlet.mmu.walker cimport allowed, mark_used, resolve, walk

cdef enum:
    RUN_BITS = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | PTE_PS | PTE_G
    REPEATS_MAX = 16


cdef bint continues(Mmu* m, Node* node, u32 entry, u64 leaf, u64 wanted,
                    bint code, u64* found) noexcept nogil:
    """Whether a neighbour can be mapped in the same run: it has the rights of `leaf`, the frame
    of `wanted`, was accessed by the guest, is RAM, and is not mapped yet."""
    cdef u64 size = leaf_size(node.level)
    cdef u64 e, phys
    if bit_test(node.mapped, entry) or bit_test(node.down, entry):
        return False
    e = load_entry(m, node.form, node.table, entry)
    if (e ^ wanted) & (RUN_BITS | FRAME_XD):
        return False
    if node.form == FORM_64 and e & m.reserved:
        return False
    if bit_test(node.used, entry) and change_of(node.copy[entry], e) >= CHANGE_LESS:
        return False
    phys = e & m.frame_mask & ~(size - 1)
    if ram_left(m.ram, phys) < size:
        return False
    if node.level == 1 and is_code(m.ram, phys) != code:
        return False
    found[0] = e
    return True


cdef u64 room_behind(Mmu* m, Node* node, u32 last, u64 phys) noexcept nogil:
    """Bytes behind a small page where nothing is mapped, in its node, and RAM at `phys` goes on."""
    cdef u32 entry = last + 1
    if node.level > 1:
        return 0
    while entry < ENTRIES and entry - last <= AHEAD_MAX and not bit_test(node.mapped, entry):
        entry += 1
    return min(<u64>(entry - 1 - last) << PAGE_SHIFT, ram_left(m.ram, phys))


cdef bint fill(CpuState* c, Mmu* m, u32 region, Walk* w) noexcept nogil:
    """Map the leaf of a walk, whose accessed bits are set, and its run.  False: the host has no
    mapping left."""
    cdef Region* r = &m.regions[region]
    cdef u32 index, entry, first, last, i
    cdef u64 size = leaf_size(w.leaf)
    cdef u64 leaf = w.entry[w.leaf]
    cdef u64 phys, length, low
    cdef u64 e = 0
    cdef bint local, can_write, writable, code
    cdef Node* node
    make_room(c, m)
    if w.linear >> 63:
        m.group_top[m.group - 1 - SPACES][entry_index(w.linear, 4) - 256] = w.entry[4]
    index = record(c, m, r, w, True)
    node = &m.nodes[index]
    entry = entry_index(w.linear, w.leaf)
    phys = leaf_phys(m, node, entry)
    can_write = w.write or not (m.wp or r.user)
    if can_write and not w.write:
        r.wp0 = 1
    writable = can_write and leaf & PTE_D
    code = w.leaf == 1 and is_code(m.ram, phys)
    local = not (m.pge and leaf & PTE_G)
    length = ram_left(m.ram, phys)
    first = entry
    last = entry
    if length >= size:
        length = size
        while last + 1 < ENTRIES and continues(
                m, node, last + 1, leaf, leaf + (last + 1 - entry) * size, code, &e):
            last += 1
            node.copy[last] = e
        while first > 0 and continues(
                m, node, first - 1, leaf, leaf - (entry - first + 1) * size, code, &e):
            first -= 1
            node.copy[first] = e
        length *= last - first + 1
    low = node.linear + first * size
    phys -= (entry - first) * size
    if not window_map(m, r, low, phys, length, room_behind(m, node, last, phys + length),
                      writable and not code):
        window_unmap(m, r, node.linear + entry * size, size)
        return False
    for i in range(first, last + 1):
        bit_set(node.used, i)
        if local:
            bit_set(node.check, i)
        leaf_link(m, r, index, i, writable)
    if writable and w.leaf > 1:
        protect_run(m, r, low, phys, length)
    settle(m, r)
    c.n_shadow_pages += length >> PAGE_SHIFT
    return True


cdef bint mapped_right(Mmu* m, Region* r, Walk* w, bint write) noexcept nogil:
    """Whether the window already shows a walk's leaf, and lets it be written if `write`."""
    cdef u32 index = r.top
    cdef u32 level = 3
    cdef u32 entry
    cdef Node* node
    while index:
        node = &m.nodes[index]
        entry = entry_index(w.linear, level)
        if not bit_test(node.used, entry) or change_of(node.copy[entry], w.entry[level]):
            return False
        if level == w.leaf:
            return bit_test(node.mapped, entry) and (not write or bit_test(node.writable, entry))
        if not bit_test(node.down, entry):
            return False
        index = node.next[entry]
        level -= 1
    return False


cdef int touch(CpuState* c, Mmu* m, u32 region, Walk* w, u32 access) noexcept nogil:
    """Make an allowed access to RAM possible in a region."""
    cdef Region* r = &m.regions[region]
    cdef bint write = (access & ACC_WRITE) != 0
    if r.user and not (w.user and (w.write or not write)):
        region_split(c, m, region)
    if write and is_code(m.ram, w.phys):
        about_to_write(m.ram, w.phys)
        if mapped_right(m, r, w, True) and m.repeats == 0:
            return MEM_OK
    # The second try comes after room was made.
    if not fill(c, m, region, w) and not fill(c, m, region, w):
        return -1
    flush_code(c, m)
    return MEM_OK


cdef u32 region_for(CpuState* c, Mmu* m, Walk* w) noexcept nogil:
    """The region of the running privilege for a walk's slot, made if there is none; 0 if none can
    be had.  In the low half one region serves both privileges while it holds nothing but user
    pages, written only where users may."""
    cdef u32 slot = <u32>(w.linear >> SLOT_SHIFT) & (SLOT_COUNT - 1)
    cdef bint user = c.cpl == 3
    cdef u32 region = slot_region(c, m, slot, user)
    cdef u32 other
    cdef bint alike
    if region:
        return region
    other = slot_region(c, m, slot, not user)
    alike = slot < SLOT_COUNT // 2 and w.user and m.wp
    if other and alike and m.regions[other].user:
        region_share(c, m, other)
        return other
    if user:
        region = region_take(c, m, slot, True, alike and not other)
    else:
        region = region_take(c, m, slot, alike and not other, True)
    if not region:
        m.owners[m.group if slot >= SLOT_COUNT // 2 else m.space].unrecorded = 1
    return region


cdef int shadow_fault(CpuState* c, Mmu* m, u64 host, u32 err, u64* linear) noexcept nogil:
    cdef u32 region = region_of_host(c, m, host)
    cdef u32 access = err & ACC_WRITE
    cdef u64 at
    cdef Walk w
    cdef int result
    if not region:
        return -1
    at = m.regions[region].linear + (host - m.regions[region].base)
    if m.mode != PAGING_LONG and at >> 32:
        return -1
    linear[0] = at
    if at >> PAGE_SHIFT == m.last_page and access == m.last_err:
        m.repeats += 1
        if m.repeats > REPEATS_MAX:
            m.repeats = 0
            return -1
    else:
        m.last_page = at >> PAGE_SHIFT
        m.last_err = access
        m.repeats = 0
    if c.cpl == 3:
        access |= ACC_USER
    if resolve(c, m, at, access, &w) != MEM_OK:
        m.last_page = 0
        return MEM_FAULT
    if not is_ram(m.ram, w.phys):
        m.last_page = 0
        c.mmio_phys = w.phys
        c.mmio_linear = at
        return MEM_MMIO
    result = touch(c, m, region, &w, access)
    if result == MEM_OK:
        c.n_shadow_faults += 1
    return result


cdef int slot_fault(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil:
    cdef Walk w
    cdef u32 region
    access &= ACC_WRITE
    if c.cpl == 3:
        access |= ACC_USER
    if resolve(c, m, linear, access, &w) != MEM_OK:
        return MEM_FAULT
    region = region_for(c, m, &w)
    if not region:
        c.mmio_phys = w.phys
        c.mmio_linear = w.linear
        return MEM_MMIO
    if is_ram(m.ram, w.phys):
        touch(c, m, region, &w, access)
    return MEM_OK


cdef void prefill(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil:
    """Dirty is never set here: the write it announces may not come."""
    cdef Walk w
    cdef u32 region
    access &= ACC_WRITE
    if c.cpl == 3:
        access |= ACC_USER
    if m.mode != PAGING_LONG:
        linear &= <u64>0xFFFFFFFF
    elif not is_canonical(linear):
        return
    if not walk(c, m, linear, &w) or not allowed(m, &w, access):
        return
    if not is_ram(m.ram, w.phys):
        return
    region = region_for(c, m, &w)
    if not region or (m.regions[region].user and not w.user):
        return
    mark_used(m, &w, False)
    if not mapped_right(m, &m.regions[region], &w, (access & ACC_WRITE) != 0):
        fill(c, m, region, &w)
        flush_code(c, m)


cdef int fetch(CpuState* c, Mmu* m, u64 linear, u64* phys) noexcept nogil:
    """Translate for an instruction fetch, and remember through which entries."""
    cdef Walk w
    cdef u32 region, index
    cdef u32 access = ACC_FETCH
    if c.cpl == 3:
        access |= ACC_USER
    if resolve(c, m, linear, access, &w) != MEM_OK:
        return MEM_FAULT
    phys[0] = w.phys
    region = region_for(c, m, &w)
    if region:
        make_room(c, m)
        index = record(c, m, &m.regions[region], &w, False)
        bit_set(m.nodes[index].fetched, entry_index(w.linear, w.leaf))
        flush_code(c, m)
    if not is_ram(m.ram, w.phys):
        c.mmio_phys = w.phys
        c.mmio_linear = w.linear
        return MEM_MMIO
    return MEM_OK
