"""Windows: filling regions from walks.

A host fault in a region is walked in the guest's tables.  If the walk allows the access, the page
is mapped together with its neighbours: the longest run that is contiguous in guest linear and guest
physical addresses and that the guest has already touched.  If the walk does not allow the access,
the guest gets a #PF.

The order of changes.  A processor's records say what its windows show (`records`), its mappings are
what they do show (`mappings`), and RAM's bitmap says which pages hold code (`ram`).  Whenever guest
code runs:

* every page that a window shows is in a chain, and every entry it was reached by is used;
* no window shows a code page writable;
* the code cache holds nothing that was fetched through an entry that was found changed.

Between these moments the three differ, in this order:

1. `make_room` comes first, because it may evict records and mappings of any space.
2. `record` takes the entries of the walk and forgets what came from entries that differ.
3. The pages are mapped, in place of what was there.
4. `leaf_link` puts them in their chains, and `protect_run` takes write access from the code pages
   in large ones.
5. `flush_code` tells the code cache which linear pages have changed.

To drop pages, `forget` takes them out of the records first, and then one call unmaps them. Until
then a window shows pages that nothing records. So whoever forgets unmaps, or maps something else
there, before it returns. A code page's bit is set first; then its windows lose write access; then
its bytes are read. When it is written, its translations are dropped first; then the bit is
cleared; then its windows get write access.

Interruption. Everything here runs on the processor's thread, either in the run loop or in the
handler of a fault of translated code, and translated code does not run within the run loop's
part. So the handler never finds a step half done. Signals that stop the processor change nothing
in `mmu`. What `mmu` itself reads and writes is `GuestRam.host`, which never faults.

Failure. If the host refuses to map, the ballast is thrown off and the call is made once more. If
the host refuses again, the page is made inaccessible, nothing is put in a chain, and the caller
tries a second time, after `make_room` has evicted. The entries stay used, which costs a
comparison and is harmless. If the host refuses to unmap or to write-protect, the process ends:
the guest would keep access that it has lost. If the host refuses to allow writing, the page stays
read-only and the next write faults.
"""
from ringlet.core.state cimport (
    CpuState, u32, u64, ACC_FETCH, ACC_USER, ACC_WRITE, MEM_FAULT, MEM_MMIO, MEM_OK, SLOT_LOW,
    is_canonical)
from ringlet.mmu.codepages cimport protect_run
from ringlet.mmu.layout cimport (
    AHEAD_MAX, FRAME_XD, ENTRIES, FORM_64, Mmu, Node, PAGING_LONG, PTE_A, PTE_D, PTE_G, PTE_P,
    PTE_PS, PTE_U, PTE_W, Region, SPACES, Walk, entry_index, in_upper_half, leaf_size, load_entry,
    slot_of, slot_region, slot_size)
from ringlet.mmu.map_target cimport RIGHTS_READ, RIGHTS_RUN, RIGHTS_WRITE
from ringlet.mmu.mappings cimport settle, window_map, window_unmap
from ringlet.mmu.pages cimport PAGE_SHIFT, bit_clear, bit_set, bit_test
from ringlet.mmu.ram cimport about_to_write, is_code, is_ram, ram_left
from ringlet.mmu.records cimport CHANGE_LESS, change_of, flush_code, leaf_link, leaf_phys, record
from ringlet.mmu.regions cimport make_room, region_of_host, region_share, region_split, region_take
from ringlet.mmu.walker cimport allowed, mark_used, resolve, walk

cdef enum:
    RUN_BITS = PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | PTE_PS | PTE_G
    REPEATS_MAX = 16


cdef bint continues(Mmu* m, Node* node, u32 entry, u64 leaf, u64 wanted,
                    bint code, bint runs, u64* found) noexcept nogil:
    """Tell whether a neighbour can be mapped in the same run: its entry is `wanted` (the rights of
    `leaf` and the next frame), the guest has accessed it, it is RAM, and it is not mapped yet.
    Pages that a direct process executes are mapped alone, for each must be screened."""
    cdef u64 size = leaf_size(node.level)
    cdef u64 e, phys
    if runs or bit_test(node.mapped, entry) or bit_test(node.down, entry):
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
    """Return the number of bytes behind a small page in which its node has nothing mapped and RAM
    continues from `phys`."""
    cdef u32 entry = last + 1
    if node.level > 1:
        return 0
    while entry < ENTRIES and entry - last <= AHEAD_MAX and not bit_test(node.mapped, entry):
        entry += 1
    return min(<u64>(entry - 1 - last) << PAGE_SHIFT, ram_left(m.ram, phys))


cdef bint fill(CpuState* c, Mmu* m, u32 region, Walk* w, bint runs) noexcept nogil:
    """Map the leaf of a walk, whose accessed bits are set, and its run.  `runs`: it is a small page
    that the direct process may execute.  Return False if the host has no mapping left."""
    cdef Region* r = &m.regions[region]
    cdef u32 index, entry, first, last, i
    cdef u64 size = leaf_size(w.leaf)
    cdef u64 leaf = w.entry[w.leaf]
    cdef u64 phys, length, low
    cdef u64 e = 0, end = r.linear + slot_size(r.slot) - 1
    cdef bint local, can_write, writable, code
    cdef u32 rights
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
    if runs and not code:
        return False   # such a page is writable
    local = not (m.pge and leaf & PTE_G)
    length = ram_left(m.ram, phys)
    first = entry
    last = entry
    if length >= size:
        length = size
        while last + 1 < ENTRIES and node.linear + last * size < end - size and continues(
                m, node, last + 1, leaf, leaf + (last + 1 - entry) * size, code, runs, &e):
            last += 1
            node.copy[last] = e
        while first > 0 and node.linear + first * size > r.linear and continues(
                m, node, first - 1, leaf, leaf - (entry - first + 1) * size, code, runs, &e):
            first -= 1
            node.copy[first] = e
        length *= last - first + 1
    low = node.linear + first * size
    phys -= (entry - first) * size
    rights = RIGHTS_WRITE if writable and not code else RIGHTS_READ
    if runs:
        rights |= RIGHTS_RUN
    if not window_map(m, r, low, phys, length, room_behind(m, node, last, phys + length), rights):
        window_unmap(m, r, node.linear + entry * size, size)
        return False
    for i in range(first, last + 1):
        bit_set(node.used, i)
        if local:
            bit_set(node.check, i)
        leaf_link(m, r, index, i, writable)
        if runs:
            bit_set(node.runs, i)
        else:
            bit_clear(node.runs, i)
    if writable and w.leaf > 1:
        protect_run(m, r, low, phys, length, rights & ~(RIGHTS_WRITE & ~RIGHTS_READ))
    settle(m, r)
    c.n_shadow_pages += length >> PAGE_SHIFT
    return True


cdef bint mapped_right(Mmu* m, Region* r, Walk* w, bint write) noexcept nogil:
    """Tell whether the window already shows a walk's leaf, writable if `write`."""
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


cdef int touch(CpuState* c, Mmu* m, u32 region, Walk* w, u32 access, bint runs) noexcept nogil:
    """Make an access to RAM that the walk allows possible in a region (`runs`: see `fill`)."""
    cdef Region* r = &m.regions[region]
    cdef bint write = (access & ACC_WRITE) != 0
    if r.user and not (w.user and (w.write or not write)):
        region_split(c, m, region)
    if write and is_code(m.ram, w.phys):
        about_to_write(m.ram, w.phys)
        if mapped_right(m, r, w, True) and m.repeats == 0:
            return MEM_OK
    # The second try comes after room was made.
    if not fill(c, m, region, w, runs) and not fill(c, m, region, w, runs):
        return -1
    flush_code(c, m)
    return MEM_OK


cdef u32 region_for(CpuState* c, Mmu* m, Walk* w) noexcept nogil:
    """Return the region of the running privilege for a walk's slot; take one if there is none.
    Return 0 if all are in use.  In the low half one region serves both privileges while it holds
    only user pages and the kernel writes only where users may."""
    cdef u32 slot = slot_of(c, w.linear)
    cdef bint user = c.arch.cpl == 3
    cdef u32 region = slot_region(c, m, slot, user)
    cdef u32 other
    cdef bint alike
    if region:
        return region
    other = slot_region(c, m, slot, not user)
    alike = not in_upper_half(slot) and w.user and m.wp
    if other and alike and m.regions[other].user:
        region_share(c, m, other)
        return other
    if user:
        region = region_take(c, m, slot, True, alike and not other)
    else:
        region = region_take(c, m, slot, alike and not other, True)
    if not region:
        m.owners[m.group if in_upper_half(slot) else m.space].unrecorded = 1
    return region


cdef bint repeats_too_often(Mmu* m, u64 linear, u32 access) noexcept nogil:
    """Count a fault if it repeats the last one.  Tell whether it has done so too often."""
    if linear >> PAGE_SHIFT != m.last_page or access != m.last_err:
        m.last_page = linear >> PAGE_SHIFT
        m.last_err = access
        m.repeats = 0
        return False
    m.repeats += 1
    if m.repeats <= REPEATS_MAX:
        return False
    m.repeats = 0
    return True


cdef int shadow_fault(CpuState* c, Mmu* m, u64 host, u32 err, u64* linear) noexcept nogil:
    cdef u32 region = region_of_host(c, m, host)
    cdef u32 access = err & ACC_WRITE
    cdef u64 at
    cdef Walk w
    cdef int result
    if not region:
        return -1
    at = m.regions[region].linear + (host - m.regions[region].base)
    if at >> 32 and (m.mode != PAGING_LONG or m.regions[region].slot == SLOT_LOW):
        return -1
    linear[0] = at
    if repeats_too_often(m, at, access):
        return -1
    if c.arch.cpl == 3:
        access |= ACC_USER
    if resolve(c, m, at, access, &w) != MEM_OK:
        m.last_page = 0
        return MEM_FAULT
    if not is_ram(m.ram, w.phys):
        m.last_page = 0
        c.mmio_phys = w.phys
        c.mmio_linear = at
        return MEM_MMIO
    result = touch(c, m, region, &w, access, False)
    if result == MEM_OK:
        c.n_shadow_faults += 1
    return result


cdef int slot_fault(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil:
    cdef Walk w
    cdef u32 region
    access &= ACC_WRITE
    if c.arch.cpl == 3:
        access |= ACC_USER
    if resolve(c, m, linear, access, &w) != MEM_OK:
        return MEM_FAULT
    region = region_for(c, m, &w)
    if not region:
        c.mmio_phys = w.phys
        c.mmio_linear = w.linear
        return MEM_MMIO
    if is_ram(m.ram, w.phys):
        touch(c, m, region, &w, access, False)
    return MEM_OK


cdef bint slot_open(CpuState* c, Mmu* m, u64 linear) noexcept nogil:
    """Give the slot of `linear` a region that shows nothing.  Return False if none is left."""
    cdef u32 slot = slot_of(c, linear)
    cdef bint user = c.arch.cpl == 3
    return slot_region(c, m, slot, user) or region_take(c, m, slot, user, not user)


cdef void prefill(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil:
    """Map what a walk gives.  The dirty bit is not set here, because the write may not happen."""
    cdef Walk w
    cdef u32 region
    access &= ACC_WRITE
    if c.arch.cpl == 3:
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
        fill(c, m, region, &w, False)
        flush_code(c, m)


cdef int fetch_code(CpuState* c, Mmu* m, u64 linear, u64* phys) noexcept nogil:
    """Translate for an instruction fetch, and record the entries of the walk."""
    cdef Walk w
    cdef u32 region, index
    cdef u32 access = ACC_FETCH
    if c.arch.cpl == 3:
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
