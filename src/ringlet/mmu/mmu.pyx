"""The virtual MMU: guest RAM, walks of the guest's page tables, and the windows that make the
host's paging do the guest's.

The host's page tables are the shadow page tables.  A guest linear page is reached by mapping its
page of RAM at a host address that is a function of the linear address; an access with no mapping
faults into the host's signal handler, which comes here.

The modules, lowest first: `pages`; `map_target`, the calls that map guest frames; `ram`, what is
the machine's; `layout`, what is a processor's; `walker`, `mappings`, `records`, `regions`,
`codepages`, `access`, `windows`, `spaces`.  This one is their interface.
"""
import gc

from ringlet.core.host cimport host_map, host_unmap
from ringlet.core.state cimport CpuState, i64, u8, u32, u64, ACC_FETCH, ACC_WRITE, is_canonical
from ringlet.mmu cimport access, codepages, direct, spaces, windows
from ringlet.mmu.layout cimport (
    Mmu, NODES, Node, PAGING_LONG, Region, Walk, in_arena, in_guard, mmu_of, stride_at)
from ringlet.mmu.map_target cimport MapTarget, target_here
from ringlet.mmu.pages cimport PAGE_SHIFT
from ringlet.mmu.ram cimport (
    GuestRam, is_ram, protect_code, ram_at, ram_attach, ram_detach, unprotect_code)
from ringlet.mmu.records cimport flush_code, nodes_create
from ringlet.mmu.regions cimport arena_create, arena_destroy, leave_direct, oldest_direct
from ringlet.mmu.walker cimport read_paging_mode, walk


# --- guest physical memory

cdef u8* ram_host(CpuState* c, u64 phys) noexcept nogil:
    cdef GuestRam* ram = mmu_of(c).ram
    return ram_at(ram, phys) if is_ram(ram, phys) else NULL


cdef int phys_read(CpuState* c, u64 phys, void* dst, u64 size) noexcept nogil:
    return access.phys_access(c, mmu_of(c), phys, <u8*>dst, size, False)


cdef int phys_write(CpuState* c, u64 phys, const void* src, u64 size) noexcept nogil:
    return access.phys_access(c, mmu_of(c), phys, <u8*>src, size, True)


# --- linear accesses

cdef int mmu_translate(CpuState* c, u64 linear, u32 kind, u64* phys) noexcept nogil:
    return access.translate_linear(c, mmu_of(c), linear, kind, phys)


cdef bint mmu_look(CpuState* c, u64 linear, u64* phys) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    cdef Walk w
    cdef bint possible = is_canonical(linear) if m.mode == PAGING_LONG else linear >> 32 == 0
    if not possible or not walk(c, m, linear, &w):
        return False
    phys[0] = w.phys
    return True


cdef int mmu_read(CpuState* c, u64 linear, void* dst, u32 size, u32 kind) noexcept nogil:
    return access.linear_access(c, mmu_of(c), linear, <u8*>dst, size, kind & ~<u32>ACC_WRITE)


cdef int mmu_write(CpuState* c, u64 linear, const void* src, u32 size, u32 kind) noexcept nogil:
    return access.linear_access(c, mmu_of(c), linear, <u8*>src, size, kind | ACC_WRITE)


cdef int mmu_fetch(CpuState* c, u64 linear, u64* phys) noexcept nogil:
    return windows.fetch_code(c, mmu_of(c), linear, phys)


# --- windows

cdef int mmu_shadow_fault(CpuState* c, u64 host, u32 err, u64* linear) noexcept nogil:
    return windows.shadow_fault(c, mmu_of(c), host, err, linear)


cdef int mmu_slot_fault(CpuState* c, u64 linear, u32 kind) noexcept nogil:
    return windows.slot_fault(c, mmu_of(c), linear, kind)


cdef bint mmu_slot_open(CpuState* c, u64 linear) noexcept nogil:
    return windows.slot_open(c, mmu_of(c), linear)


cdef bint mmu_is_window(CpuState* c, u64 host) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    return in_arena(m.arena, m.arena_size, host)


cdef u64 mmu_nowhere(CpuState* c) noexcept nogil:
    # The first stride has no region.
    return mmu_of(c).arena


cdef u64 mmu_linear_of(CpuState* c, u64 host) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    cdef u64 distance = host - m.arena
    cdef Region* r
    if host < m.arena or distance >= m.arena_size or in_guard(distance):
        return 0
    r = &m.regions[stride_at(distance)]
    return r.linear + (host - r.base) if r.owner else 0


cdef void mmu_prefill(CpuState* c, u64 linear, u32 kind) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    if c.arch.cpl == 3 and m.owners[m.space].direct != NULL and not linear >> 47:
        direct.direct_prefill(c, m, linear, kind)
    elif not kind & ACC_FETCH:
        windows.prefill(c, m, linear, kind)


# --- direct execution

cdef MapTarget* mmu_direct(CpuState* c) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    return m.owners[m.space].direct


cdef void mmu_direct_attach(CpuState* c, MapTarget* target) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    m.owners[m.space].direct = target


cdef bint mmu_direct_yield(CpuState* c) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    cdef u32 owner = oldest_direct(m)
    if owner:
        leave_direct(c, m, owner)
        flush_code(c, m)
    return owner != 0


cdef void mmu_direct_leave(CpuState* c) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    leave_direct(c, m, m.space)
    flush_code(c, m)


cdef void mmu_direct_crowded(CpuState* c) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    m.owners[m.space].crowded = 1
    mmu_direct_leave(c)


cdef int mmu_direct_fault(CpuState* c, u64 linear, u32 access) noexcept nogil:
    return direct.direct_fault(c, mmu_of(c), linear, access)


cdef void mmu_direct_notify(CpuState* c, left_fn left, clean_fn clean,
                            seam_fn seam_clean, replace_fn replace, fits_fn fits) noexcept nogil:
    mmu_of(c).left = left
    mmu_of(c).clean = clean
    mmu_of(c).seam_clean = seam_clean
    mmu_of(c).replace = replace
    mmu_of(c).fits = fits


cdef int mmu_copies(CpuState* c) noexcept nogil:
    return mmu_of(c).ram.copies_fd


# --- events of the guest

cdef void mmu_load_cr3(CpuState* c) noexcept nogil:
    spaces.load_cr3(c, mmu_of(c))


cdef void mmu_flush_all(CpuState* c) noexcept nogil:
    spaces.flush_all(c, mmu_of(c))


cdef void mmu_mask_a20(CpuState* c, bint masked) noexcept nogil:
    cdef Mmu* m = mmu_of(c)
    if m.a20_masked != masked:
        m.a20_masked = masked
        spaces.flush_all(c, m)


cdef void mmu_invlpg(CpuState* c, u64 linear) noexcept nogil:
    spaces.invlpg(c, mmu_of(c), linear)


# --- code pages

cdef void mmu_protect_code(CpuState* c, u64 phys_page) noexcept nogil:
    protect_code(mmu_of(c).ram, phys_page)


cdef void mmu_unprotect_code(CpuState* c, u64 phys_page) noexcept nogil:
    unprotect_code(mmu_of(c).ram, phys_page)


# --- life

cdef u32 mapping_budget() except 0:
    """How many mappings the windows may make: what the host allows, less what the process has and
    what it may still need."""
    cdef i64 limit = 0
    cdef i64 used = 0
    with open("/proc/sys/vm/max_map_count") as setting:
        limit = int(setting.read())
    with open("/proc/self/maps", "rb") as maps:
        used = len(maps.readlines())
    limit = limit - used - 4096
    if limit < 1024:
        raise MemoryError("too few memory mappings left for the guest's windows: raise "
                          "vm.max_map_count to 65530 or more")
    return <u32>limit


cdef int mmu_create(CpuState* c, GuestRam* ram, const MapTarget* target, code_unmapped_fn unmapped,
                    code_written_fn written, space_dropped_fn dropped) except -1 with gil:
    """Make windows on guest RAM for the vCPU `c`, whose block is allocated and zero."""
    cdef u64 pages = (ram.span >> PAGE_SHIFT) + 1
    cdef u64 nodes_at = (sizeof(Mmu) + 4095) & ~<u64>4095
    cdef u64 heads_at = nodes_at + NODES * sizeof(Node)
    cdef u64 size = heads_at + (pages + (pages >> 9) + (pages >> 18) + 8) * 4
    cdef u32 budget = mapping_budget()
    # Zero and untouched: the pools cost memory as they are used.
    cdef u8* base = <u8*>host_map(size)
    cdef Mmu* m = <Mmu*>base
    if m == NULL:
        raise MemoryError("no memory for the virtual MMU's tables")
    m.self_size = size
    m.ram = ram
    if target == NULL:
        target_here(&m.target)
    else:
        m.target = target[0]
    m.nodes = <Node*>(base + nodes_at)
    m.head4k = <u32*>(base + heads_at)
    m.head2m = m.head4k + pages
    m.head1g = m.head2m + (pages >> 9) + 2
    m.unmapped = unmapped
    m.dropped = dropped
    m.maps_limit = budget
    m.epoch = 1
    nodes_create(m)
    try:
        try:
            arena_create(c, m)
        except MemoryError:
            # Machines are cycles of references: those that nobody has any more may still be there.
            gc.collect()
            arena_create(c, m)
    except BaseException:
        host_unmap(m, size)
        raise
    c.mmu = m
    read_paging_mode(c, m)
    spaces.flush_all(c, m)
    m.viewer.cpu = c
    m.viewer.written = written
    m.viewer.rights = codepages.set_page_rights
    ram_attach(ram, &m.viewer)
    return 0


cdef void mmu_destroy(CpuState* c) noexcept:
    """Give back the windows.  No host address in them is valid afterwards."""
    cdef Mmu* m = mmu_of(c)
    if m == NULL:
        return
    ram_detach(m.ram, &m.viewer)
    c.mmu = NULL
    arena_destroy(m)
    host_unmap(m, m.self_size)
