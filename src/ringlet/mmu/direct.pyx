"""Windows in direct processes: page faults there, and what they may execute.

A direct process executes a page only after it was screened (`ringlet.direct.screening`).  Such a
page is a code page, read-only in all windows; a write to it first takes the right away.  Pages that
share an instruction across their border are looked at together when the second of them is mapped.

A fault costs two switches between processes.  So the pages around it are mapped with it, as far as
the guest's own tables allow the access already and say that they were accessed before.  A program
that touches more scattered frames than a process can have mappings for would lose the pages before
it uses them.  So once it has reached that limit, they are mapped only with a fault near the last.
"""
from ringlet.core.state cimport (
    CpuState, u8, u32, u64, ACC_FETCH, ACC_USER, ACC_WRITE, MEM_FAULT, MEM_MMIO, MEM_OK, SLOT_COUNT,
    SLOT_SHIFT)
from ringlet.mmu.copies cimport copy_keep, copy_of, copy_place
from ringlet.mmu.layout cimport (
    ENTRIES, Mmu, Node, PTE_A, Region, Walk, entry_index, leaf_size)
from ringlet.mmu.map_target cimport RIGHTS_READ, RIGHTS_RUN
from ringlet.mmu.mappings cimport settle, window_protect
from ringlet.mmu.pages cimport PAGE_SHIFT, PAGE_SIZE, bit_set, bit_test
from ringlet.mmu.ram cimport GuestRam, is_code, is_ram, protect_code, ram_at
from ringlet.mmu.records cimport flush_code, leaf_phys
from ringlet.mmu.regions cimport direct_region, direct_region_take
from ringlet.mmu.walker cimport allowed, mark_used, resolve, walk
from ringlet.mmu.windows cimport fill, mapped_right, repeats_too_often, touch

cdef enum:
    AROUND = 16              # pages mapped with a fault, in an aligned block
    NEAR = 2 * AROUND        # pages between two faults of a program that goes through its memory


cdef inline const u8* page_at(GuestRam* g, u64 phys) noexcept nogil:
    return <const u8*>ram_at(g, phys & ~<u64>(PAGE_SIZE - 1))


cdef bint passed(CpuState* c, Mmu* m, u64 phys) noexcept nogil:
    """Tell whether the bytes of a code page pass, without its first ones."""
    cdef GuestRam* g = m.ram
    cdef u64 page = phys >> PAGE_SHIFT
    if not bit_test(g.passed, page) and not bit_test(g.refused, page):
        bit_set(g.passed if m.clean(c, page_at(g, phys)) else g.refused, page)
    return bit_test(g.passed, page)


cdef Node* lowest_node(Mmu* m, u32 region, u64 linear) noexcept nogil:
    """Return the record of the lowest table that is known on the way to `linear`, or NULL."""
    cdef u32 index = m.regions[region].top
    cdef u32 level = 3
    cdef u32 entry
    if not index:
        return NULL
    while level > 1:
        entry = entry_index(linear, level)
        if not bit_test(m.nodes[index].down, entry):
            break
        index = m.nodes[index].next[entry]
        level -= 1
    return &m.nodes[index]


cdef const u8* shown_page(Mmu* m, u64 linear) noexcept nogil:
    """Return the page that the direct process has at an address, or NULL.  Until the guest
    invalidates it, it need not be the one in the guest's tables."""
    cdef u32 region = direct_region(m, <u32>(linear >> SLOT_SHIFT) & (SLOT_COUNT - 1))
    cdef Node* node = lowest_node(m, region, linear) if region else NULL
    cdef u32 entry
    cdef u64 phys
    if node == NULL:
        return NULL
    entry = entry_index(linear, node.level)
    if not bit_test(node.mapped, entry):
        return NULL
    # A large leaf can reach beyond RAM.
    phys = leaf_phys(m, node, entry) + (linear & (leaf_size(node.level) - 1))
    return page_at(m.ram, phys) if is_ram(m.ram, phys) else NULL


cdef const u8* page_before(CpuState* c, Mmu* m, u64 linear) noexcept nogil:
    """Return the page before the one at a linear address by the guest's tables, or NULL."""
    cdef Walk other
    if walk(c, m, linear - PAGE_SIZE, &other) and is_ram(m.ram, other.phys):
        return page_at(m.ram, other.phys)
    return NULL


cdef const u8* executed_page(GuestRam* g, u64 phys) noexcept nogil:
    """Return what a direct process executes of a page."""
    cdef const u8* copy = copy_of(g, phys)
    return copy if copy != NULL else page_at(g, phys)


cdef bint behind_passed(CpuState* c, Mmu* m, const u8* page, u64 behind) noexcept nogil:
    """Tell whether a page that the process has, by its guest physical address, may stand behind
    another one: its copy, if it has one, can depend on the page before."""
    cdef const u8* copy = copy_of(m.ram, behind)
    if copy == NULL:
        return m.seam_clean(c, page, page_at(m.ram, behind))
    return m.seam_clean(c, page, copy) and m.fits(c, page, behind, copy, False)


cdef bint seams_passed(CpuState* c, Mmu* m, Walk* w) noexcept nogil:
    """Tell whether a page, or its copy, passes together with the pages before and behind it."""
    cdef GuestRam* g = m.ram
    cdef const u8* page = executed_page(g, w.phys)
    cdef u64 linear = w.linear & ~<u64>(PAGE_SIZE - 1)
    cdef const u8* before = page_before(c, m, linear)
    cdef const u8* shown = shown_page(m, linear - PAGE_SIZE)
    cdef Walk other
    if not m.seam_clean(c, before, page) \
            or (shown != NULL and shown != before and not m.seam_clean(c, shown, page)):
        return False
    shown = shown_page(m, linear + PAGE_SIZE)
    if shown != NULL and not behind_passed(c, m, page, shown - g.host):
        return False
    # Only a page that ends with the first bytes of an opcode needs a look at one that is not shown.
    if page[PAGE_SIZE - 1] != 0x0F and page[PAGE_SIZE - 2] != 0x0F:
        return True
    return (not walk(c, m, linear + PAGE_SIZE, &other) or not is_ram(g, other.phys)
            or not is_code(g, other.phys) or m.seam_clean(c, page, page_at(g, other.phys)))


cdef bint replaced(CpuState* c, Mmu* m, Walk* w) noexcept nogil:
    """Tell whether a page that does not pass has a copy that does, or gets one now.

    Programs share frames, but not the page before, by which a copy may have been made.
    """
    cdef u64 phys = w.phys & ~<u64>(PAGE_SIZE - 1)
    cdef u64 linear = w.linear & ~<u64>(PAGE_SIZE - 1)
    cdef const u8* copy = copy_of(m.ram, phys)
    cdef u8* place
    if w.leaf > 1:
        return False
    if copy != NULL:
        return m.fits(c, page_before(c, m, linear), phys, copy, w.write)
    place = copy_place(m.ram, phys)
    if place == NULL or not m.replace(c, page_before(c, m, linear), phys, place, w.write):
        return False
    copy_keep(m.ram, phys, place)
    return True


cdef bint may_run(CpuState* c, Mmu* m, Walk* w) noexcept nogil:
    """Make the page of a walk a code page, and tell whether the direct process may execute it, or a
    copy of it."""
    protect_code(m.ram, w.phys)
    return (passed(c, m, w.phys) or replaced(c, m, w)) and seams_passed(c, m, w)


cdef void run_in_large(Mmu* m, u32 region, Walk* w) noexcept nogil:
    """Let the direct process execute a small page of a large leaf that is mapped."""
    cdef Region* r = &m.regions[region]
    window_protect(m, r, w.linear & ~<u64>(PAGE_SIZE - 1), PAGE_SIZE, RIGHTS_READ | RIGHTS_RUN)
    r.holes += 1
    settle(m, r)


cdef bint worth_mapping_around(Mmu* m, u64 linear) noexcept nogil:
    """Note a fault, and tell whether the pages around it will probably be used soon."""
    cdef u64 page = linear >> PAGE_SHIFT
    cdef bint near = page - m.faulted + NEAR <= 2 * NEAR
    m.faulted = page
    return near or not m.owners[m.space].crowded


cdef void around(CpuState* c, Mmu* m, u32 region, u64 page, u64 end, u32 access) noexcept nogil:
    """Map those pages of a block, by their numbers, that the same kind of access could reach."""
    cdef bint runs = access & ACC_FETCH
    cdef Node* node = lowest_node(m, region, page << PAGE_SHIFT)
    cdef Walk w
    while page < end:
        if (node == NULL or node.level > 1 or not bit_test(node.mapped, page & (ENTRIES - 1))) \
                and walk(c, m, page << PAGE_SHIFT, &w) and w.leaf == 1 and w.entry[1] & PTE_A \
                and allowed(m, &w, access & ACC_FETCH | ACC_USER) and is_ram(m.ram, w.phys) \
                and (not runs or (is_code(m.ram, w.phys)
                                  and bit_test(m.ram.passed, w.phys >> PAGE_SHIFT)
                                  and seams_passed(c, m, &w))):
            mark_used(m, &w, False)
            if not fill(c, m, region, &w, runs):
                return
            node = lowest_node(m, region, page << PAGE_SHIFT)
        page += 1


cdef int map_page(CpuState* c, Mmu* m, u32 region, Walk* w, u32 access) noexcept nogil:
    """Make an access that the walk allows possible: MEM_OK, or -1."""
    cdef bint runs = access & ACC_FETCH
    cdef u64 page = w.linear >> PAGE_SHIFT
    cdef u64 block = page & ~<u64>(AROUND - 1)
    cdef bint more
    if runs:
        if not may_run(c, m, w):
            return -1
        if w.leaf > 1:
            if not mapped_right(m, &m.regions[region], w, False) \
                    and touch(c, m, region, w, access, False) != MEM_OK:
                return -1
            run_in_large(m, region, w)
            return MEM_OK
    # In this order, pages that continue each other become one mapping.
    more = worth_mapping_around(m, w.linear)
    if more:
        around(c, m, region, block, page, access)
    if touch(c, m, region, w, access, runs) != MEM_OK:
        return -1
    if more:
        around(c, m, region, page + 1, block + AROUND, access)
    flush_code(c, m)
    return MEM_OK


cdef int direct_fault(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil:
    """Make an access of CPL 3 possible in the direct process of the current space.

    The process can forge the kind of access: no processor writes and fetches at once.
    """
    cdef u32 slot = <u32>(linear >> SLOT_SHIFT) & (SLOT_COUNT - 1)
    cdef u32 region
    cdef Walk w
    if access & ACC_FETCH:
        access = ACC_FETCH
    if repeats_too_often(m, linear, access):
        return -1
    if resolve(c, m, linear, access | ACC_USER, &w) != MEM_OK:
        m.last_page = 0
        return MEM_FAULT
    if not is_ram(m.ram, w.phys):
        return MEM_MMIO
    region = direct_region(m, slot)
    if not region:
        region = direct_region_take(c, m, slot)
    if not region or map_page(c, m, region, &w, access) != MEM_OK:
        return -1
    c.n_shadow_faults += 1
    return MEM_OK


cdef void direct_prefill(CpuState* c, Mmu* m, u64 linear, u32 access) noexcept nogil:
    """Map what a walk gives, before the guest's page fault handler returns to a direct process."""
    cdef u32 region = direct_region(m, <u32>(linear >> SLOT_SHIFT) & (SLOT_COUNT - 1))
    cdef Walk w
    if not region or not walk(c, m, linear, &w) or not allowed(m, &w, access | ACC_USER) \
            or not is_ram(m.ram, w.phys):
        return
    mark_used(m, &w, False)
    if access & ACC_FETCH or not mapped_right(m, &m.regions[region], &w,
                                              (access & ACC_WRITE) != 0):
        map_page(c, m, region, &w, access & ACC_FETCH)
