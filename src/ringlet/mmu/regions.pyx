"""Regions and their owners: the arena, the slot tables, eviction.

The arena is a range of host addresses in strides of 104 GiB: a guard of 40 GiB and a region.  A
host address gives the number of its region by a division.  The arena grows at its end while more
regions are needed and the host's addresses there are free.  Once it may jump over what stands in
the way, such as the program itself; the numbers in between belong to no region.
"""
from ringlet.core.state cimport CpuState, u32, u64, SLOT_LOW, SLOT_SHIFT
from ringlet.mmu.layout cimport (
    ALL_REGIONS, GROUPS, GUARD_UNITS, KNOWN_SLOTS, Mmu, Owner, REGIONS, REGIONS_FIRST, Region,
    SPACES, UNIT_SHIFT, in_guard, in_upper_half, poison, set_slot, slot_addend, slot_linear,
    stride_at, strides)
from ringlet.mmu.map_target cimport MapTarget, ballast_drop, ballast_take
from ringlet.mmu.mappings cimport settle, window_unmap
from ringlet.mmu.records cimport empty_region, flush_code, forget_region

cdef enum:
    FIRST_GROUP = 1 + SPACES
    REGIONS_MIN = 8      # 1 TiB with as much again
    REGIONS_MORE = 16    # by which the arena grows
    MAPS_MARGIN = 64     # more than one operation can add
    NODES_MARGIN = 8
    BUDGET_MIN = 2 * MAPS_MARGIN


cdef int arena_create(CpuState* c, Mmu* m) except -1:
    """Reserve the arena's first regions, at most half of what is free, and poison all slots.

    So several machines in one process share the host's address space: the first one leaves room
    for the next.  It stands at the lower end of the largest free range, so that it can grow.
    """
    cdef u64 align = <u64>1 << UNIT_SHIFT
    cdef u32 count = REGIONS
    cdef u32 first, i
    cdef MapTarget* t = &m.target
    m.reserve = 0
    # One stride more is for the alignment and the guard behind the last region.
    while count >= 2 * REGIONS_MIN:
        m.reserve = t.reserve(t, strides(count + 1))
        if m.reserve:
            break
        count -= count // 8
    if not m.reserve:
        m.reserve_size = 0
        raise MemoryError("cannot reserve 2 TiB of host address space for the guest's windows: "
                          "raise the address space limit (ulimit -v), or run fewer machines in "
                          "one process")
    first = min(<u32>REGIONS_FIRST, count // 2)
    m.reserve_size = strides(first + 1)
    t.release(t, m.reserve + m.reserve_size, strides(count + 1) - m.reserve_size)
    m.arena = (m.reserve + align - 1) & ~(align - 1)
    m.region_count = 1
    m.region_free = 0
    ballast_take(t)
    arena_add(m, first - 1)
    m.direct_free = 0
    for i in range(ALL_REGIONS - 1, REGIONS - 1, -1):
        m.regions[i].direct = 1
        m.regions[i].next = m.direct_free
        m.direct_free = i
    for i in range(SLOT_LOW + 1):
        set_slot(c, i, False, poison(i))
        set_slot(c, i, True, poison(i))
    return 0


cdef void arena_add(Mmu* m, u32 count) noexcept nogil:
    """Number the next `count` regions, whose addresses are reserved."""
    cdef u32 i
    for i in range(m.region_count + count - 1, m.region_count - 1, -1):
        m.regions[i].target = &m.target
        m.regions[i].base = m.arena + strides(i) + (<u64>GUARD_UNITS << UNIT_SHIFT)
        m.regions[i].next = m.region_free
        m.region_free = i
    m.region_count += count
    m.arena_size = strides(m.region_count)


cdef bint arena_grow(Mmu* m) noexcept nogil:
    """Reserve more regions.  Return False if there are enough, or the host has no room there."""
    cdef u32 more = min(<u32>REGIONS_MORE, REGIONS - m.region_count)
    cdef u64 end = m.more + m.more_size if m.more else m.reserve + m.reserve_size
    cdef MapTarget* t = &m.target
    if not more or t.extend == NULL:
        return False
    if not t.extend(t, end, strides(more)):
        return arena_jump(m)
    if m.more:
        m.more_size += strides(more)
    else:
        m.reserve_size += strides(more)
    arena_add(m, more)
    return True


cdef bint arena_jump(Mmu* m) noexcept nogil:
    """Reserve more regions at the lower end of the largest range that is free behind the arena."""
    cdef MapTarget* t = &m.target
    cdef u32 count = REGIONS - m.region_count
    cdef u32 first
    cdef u64 at = 0, end
    if m.more:
        return False
    # Without success the arena goes on growing where it ends, and does not try to jump again.
    m.more = m.reserve + m.reserve_size
    # Two strides more, because the range begins anywhere and the last region needs its guard.
    while count >= 2 * REGIONS_MORE:
        at = t.reserve(t, strides(count + 2))
        if at:
            break
        count -= count // 8
    if not at:
        return False
    end = at + strides(count + 2)
    first = stride_at(at - m.arena) + 1
    if at < m.arena or first + REGIONS_MORE > REGIONS:
        t.release(t, at, end - at)
        return False
    m.more = m.arena + strides(first)
    m.more_size = strides(REGIONS_MORE + 1)
    t.release(t, at, m.more - at)
    t.release(t, m.more + m.more_size, end - m.more - m.more_size)
    m.region_count = first
    arena_add(m, REGIONS_MORE)
    return True


cdef void arena_destroy(Mmu* m) noexcept:
    if m.reserve_size:
        m.target.release(&m.target, m.reserve, m.reserve_size)
        m.reserve_size = 0
    if m.more_size:
        m.target.release(&m.target, m.more, m.more_size)
        m.more = m.more_size = 0
    ballast_drop(&m.target)


# --- slot tables

cdef inline void show(CpuState* c, Region* r) noexcept nogil:
    if r.direct:
        return
    if r.kernel:
        set_slot(c, r.slot, False, r.base - r.linear)
    if r.user:
        set_slot(c, r.slot, True, r.base - r.linear)


cdef inline void hide(CpuState* c, Region* r) noexcept nogil:
    if r.direct:
        return
    if r.kernel:
        set_slot(c, r.slot, False, poison(r.slot))
    if r.user:
        set_slot(c, r.slot, True, poison(r.slot))


cdef void install(CpuState* c, Mmu* m, u32 owner) noexcept nogil:
    """Make an owner's regions reachable."""
    cdef u32 i = m.owners[owner].regions
    while i:
        show(c, &m.regions[i])
        i = m.regions[i].next


cdef void uninstall(CpuState* c, Mmu* m, u32 owner) noexcept nogil:
    cdef u32 i = m.owners[owner].regions
    while i:
        hide(c, &m.regions[i])
        i = m.regions[i].next


cdef u32 region_of_host(CpuState* c, Mmu* m, u64 host) noexcept nogil:
    """Return the region that a host address is in, if the running code may reach it; 0 if the
    address is in a guard or comes from an outdated binding."""
    cdef u64 distance = host - m.arena
    cdef u32 index
    cdef Region* r
    if host < m.arena or distance >= m.arena_size or in_guard(distance):
        return 0
    index = stride_at(distance)
    r = &m.regions[index]
    if not r.owner or slot_addend(c, r.slot, c.arch.cpl == 3) != r.base - r.linear:
        return 0
    return index


# --- taking and giving

cdef u32 oldest(Mmu* m, u32 low, u32 high) noexcept nogil:
    """Return the least recently loaded owner of an index range, but not a current one; 0: none."""
    cdef u32 i, found = 0
    for i in range(low, high):
        if m.owners[i].id and i != m.space and i != m.group:
            if not found or m.owners[i].stamp < m.owners[found].stamp:
                found = i
    return found


cdef void name_anew(Mmu* m, u32 owner) noexcept nogil:
    """Give an owner a new identity.  Identities repeat after four billion."""
    m.next_id += 1
    if not m.next_id:
        m.next_id = 1
    m.owners[owner].id = m.next_id
    m.owners[owner].epoch = m.epoch


cdef void give_back(CpuState* c, Mmu* m, u32 owner, bint all_regions) noexcept nogil:
    """Take an owner's regions in its direct process, or all that it has."""
    cdef Owner* o = &m.owners[owner]
    cdef u32* link = &o.regions
    cdef Region* r
    cdef u32 i
    while link[0]:
        i = link[0]
        r = &m.regions[i]
        if not all_regions and not r.direct:
            link = &r.next
            continue
        if owner == m.space or owner == m.group:
            hide(c, r)
        if forget_region(c, m, r) or r.holes or r.maps:
            window_unmap(m, r, r.linear, <u64>1 << SLOT_SHIFT)
            r.holes = 0
            settle(m, r)
            if not r.direct:
                m.maps -= r.maps
            r.maps = 0
        link[0] = r.next
        r.owner = 0
        if r.direct:
            r.next = m.direct_free
            m.direct_free = i
        else:
            r.next = m.region_free
            m.region_free = i


cdef void leave_direct(CpuState* c, Mmu* m, u32 owner) noexcept nogil:
    """Part an address space from its direct process, in which nothing of it stays mapped."""
    cdef Owner* o = &m.owners[owner]
    if o.direct != NULL:
        give_back(c, m, owner, False)
        m.left(c, o.direct)
        o.direct = NULL


cdef void strip(CpuState* c, Mmu* m, u32 owner) noexcept nogil:
    """Take all regions and the identity from an owner."""
    cdef Owner* o = &m.owners[owner]
    cdef u32 id = o.id
    m.quiet = 1
    give_back(c, m, owner, True)
    m.quiet = 0
    leave_direct(c, m, owner)
    o.regions = 0
    o.id = 0
    o.unrecorded = 0
    o.global_pages = 0
    if m.dropped != NULL:
        m.dropped(c, id)


cdef void evict(CpuState* c, Mmu* m, u32 owner) noexcept nogil:
    """Forget an address space or a group."""
    cdef u32 i
    strip(c, m, owner)
    m.owners[owner].key = 0
    m.owners[owner].group = 0
    for i in range(1, FIRST_GROUP):
        if m.owners[i].group == owner:
            m.owners[i].group = 0


cdef u32 region_take(CpuState* c, Mmu* m, u32 slot, bint user, bint kernel) noexcept nogil:
    """Lend a region to a slot of the current address space and enter it in the slot tables of the
    privileges named.  Return 0 if all regions belong to the current spaces."""
    cdef u32 owner = m.group if in_upper_half(slot) else m.space
    cdef u32 i, victim
    cdef Region* r
    if not m.region_free and not arena_grow(m):
        c.n_regions_full += 1
    while not m.region_free:
        victim = oldest(m, 1, FIRST_GROUP)
        if not victim:
            victim = oldest(m, FIRST_GROUP, FIRST_GROUP + GROUPS)
        if not victim:
            return 0
        evict(c, m, victim)
    i = m.region_free
    r = &m.regions[i]
    m.region_free = r.next
    r.owner = owner
    r.slot = slot
    r.linear = slot_linear(slot)
    r.user = user
    r.kernel = kernel
    r.top = 0
    r.check = 0
    r.wp0 = 0
    r.pml4e = 0
    r.next = m.owners[owner].regions
    m.owners[owner].regions = i
    show(c, r)
    return i


cdef u32 direct_region(Mmu* m, u32 slot) noexcept nogil:
    """Return the region of a slot in the direct process of the current space; 0: none."""
    cdef u32* known = &m.direct_known[slot & (KNOWN_SLOTS - 1)]
    cdef u32 i = known[0]
    if i and m.regions[i].owner == m.space and m.regions[i].slot == slot:
        return i
    i = m.owners[m.space].regions
    while i:
        if m.regions[i].direct and m.regions[i].slot == slot:
            known[0] = i
            return i
        i = m.regions[i].next
    return 0


cdef u32 oldest_direct(Mmu* m) noexcept nogil:
    """Return the least recently loaded space with a direct process, but the current; 0: none."""
    cdef u32 i, found = 0
    for i in range(1, FIRST_GROUP):
        if m.owners[i].direct != NULL and i != m.space \
                and (not found or m.owners[i].stamp < m.owners[found].stamp):
            found = i
    return found


cdef u32 direct_region_take(CpuState* c, Mmu* m, u32 slot) noexcept nogil:
    """Lend a region in the direct process of the current space to a slot.  Return 0 if the spaces
    that are loaded have all."""
    cdef Owner* o = &m.owners[m.space]
    cdef u32 i, victim
    cdef Region* r
    if not m.direct_free:
        c.n_regions_full += 1
    while not m.direct_free:
        victim = oldest_direct(m)
        if not victim:
            return 0
        leave_direct(c, m, victim)
    i = m.direct_free
    r = &m.regions[i]
    m.direct_free = r.next
    r.owner = m.space
    r.slot = slot
    r.linear = slot_linear(slot)
    r.base = r.linear
    r.target = o.direct
    r.user = 1
    r.kernel = 0
    r.top = 0
    r.check = 0
    r.wp0 = 0
    r.pml4e = 0
    r.next = o.regions
    o.regions = i
    return i


cdef void region_share(CpuState* c, Mmu* m, u32 region) noexcept nogil:
    """Let a region of user pages serve the kernel as well."""
    m.regions[region].kernel = 1
    show(c, &m.regions[region])


cdef void region_split(CpuState* c, Mmu* m, u32 region) noexcept nogil:
    """Make a region of both privileges the kernel's, because it is about to hold a page that CPL 3
    must not reach.  The user's slot has no region afterwards.  The addends of the running kernel
    code stay the same."""
    cdef Region* r = &m.regions[region]
    if r.user and not r.direct:
        r.user = 0
        set_slot(c, r.slot, True, poison(r.slot))


cdef void lower_budget(Mmu* m) noexcept nogil:
    """Lower the budget to what is mapped: the host refused a mapping earlier than expected, because
    the rest of the process has made more."""
    m.maps_limit = max(<u32>BUDGET_MIN, min(m.maps_limit, m.maps))


cdef void make_room(CpuState* c, Mmu* m) noexcept nogil:
    """Make sure that host mappings and nodes are left for one more fill.

    Address spaces are evicted first, and then the region with the most mappings is emptied.
    Regions of the running code are emptied but never given away, because its registers may hold
    their addresses.
    """
    cdef u32 victim, i, best
    if not m.target.ballast:
        lower_budget(m)
    if m.maps + MAPS_MARGIN < m.maps_limit and m.nodes_left >= NODES_MARGIN:
        return
    if m.nodes_left < NODES_MARGIN:
        c.n_nodes_full += 1
    if m.maps > m.maps_limit - m.maps_limit // 8:
        c.n_maps_full += 1
    while m.maps > m.maps_limit - m.maps_limit // 8 or m.nodes_left < NODES_MARGIN:
        victim = oldest(m, 1, FIRST_GROUP)
        if not victim:
            victim = oldest(m, FIRST_GROUP, FIRST_GROUP + GROUPS)
        if victim:
            evict(c, m, victim)
            continue
        best = 0
        for i in range(1, ALL_REGIONS):
            if m.regions[i].owner and (not best or m.regions[i].maps > m.regions[best].maps):
                best = i
        if not best or (m.regions[best].maps <= 1 and m.nodes_left >= NODES_MARGIN):
            break
        if m.nodes_left < NODES_MARGIN:
            for i in range(1, ALL_REGIONS):
                if m.regions[i].owner:
                    empty_region(c, m, &m.regions[i])
        else:
            empty_region(c, m, &m.regions[best])
        flush_code(c, m)
    ballast_take(&m.target)
