"""The data of one processor's virtual MMU, and the accessors that its modules inline.

All of it is in one anonymous mapping made at creation.  Code that runs in a signal handler or
between two guest instructions allocates from the pools below and never from libc.

Terms.  A *slot* is 64 GiB of linear addresses (bits 47..36), or SLOT_LOW: the first 4 GiB, as 16-
and 32-bit code reaches them.  That has windows of its own, in which nothing follows the 4 GiB, so
that a sum that should wrap around there faults (docs/adr/0028).  A *region* is 64 GiB of host
addresses between guards, lent to one slot of one *owner*: an address space (low half) or a group
of address spaces (upper half).  A *node* records one guest paging structure that a region was
filled from: the entries that were used, as they were then, and what was mapped because of them.
"""
from ringlet.core.control_bits cimport CR4_PSE
from ringlet.core.state cimport (
    CpuState, u8, u16, u32, u64, i64, BLOCK_SLOTS_K, BLOCK_NSLOTS_K, BLOCK_SLOTS_U, BLOCK_NSLOTS_U,
    KEY_MODE16, KEY_MODE32, SLOT_COUNT, SLOT_LOW, SLOT_SHIFT)
from ringlet.mmu.map_target cimport MapTarget, RIGHTS_READ, RIGHTS_RUN, RIGHTS_WRITE
from ringlet.mmu.pages cimport bit_test
from ringlet.mmu.ram cimport GuestRam, RamViewer, is_ram, ram_at

# The hooks of the interface (`ringlet.mmu.mmu`), which itself needs this file.
ctypedef void (*unmapped_hook)(CpuState* c, u64 linear, u64 pages) noexcept nogil
ctypedef void (*dropped_hook)(CpuState* c, u32 space) noexcept nogil
ctypedef void (*left_hook)(CpuState* c, MapTarget* target) noexcept nogil
ctypedef bint (*clean_hook)(CpuState* c, const u8* page) noexcept nogil
ctypedef bint (*replace_hook)(CpuState* c, const u8* before, u64 phys, u8* copy,
                              bint writable) noexcept nogil
ctypedef bint (*fits_hook)(CpuState* c, const u8* before, u64 phys, const u8* copy,
                           bint writable) noexcept nogil
ctypedef bint (*seam_hook)(CpuState* c, const u8* before, const u8* page) noexcept nogil

cdef enum:
    NODES = 16384
    SPACES = 64
    GROUPS = 8
    OWNERS = 1 + SPACES + GROUPS     # index 0 is nobody
    REGIONS = 1216                   # at most; fewer if the host has less room; 0 is none
    REGIONS_FIRST = 160              # set aside at creation, the others as they are needed
    DIRECT_REGIONS = 1024            # more, behind those, in direct processes
    ALL_REGIONS = REGIONS + DIRECT_REGIONS
    KNOWN_SLOTS = 256
    ENTRY_BITS = 9
    ENTRIES = 512
    POPULATE_MAX = 16                # pages; longer runs are left to the host's own faults
    AHEAD_MAX = 63                   # pages mapped ahead of their use

# Sizes in host address space, in units of 8 GiB.  A stride is a guard of 40 GiB (a 32-bit index
# times 8 and a displacement), then a region of 64 GiB.  The next stride's guard ends the region.
cdef enum:
    UNIT_SHIFT = 33
    GUARD_UNITS = 5
    STRIDE_UNITS = 13

# Bits of a paging-structure entry (SDM 3A 4.5).
cdef enum:
    PTE_P = 1
    PTE_W = 2
    PTE_U = 4
    PTE_A = 0x20
    PTE_D = 0x40
    PTE_PS = 0x80
    PTE_G = 0x100

# Paging modes (SDM 3A 4.1.1).
cdef enum:
    PAGING_OFF = 0
    PAGING_32 = 1
    PAGING_PAE = 2
    PAGING_LONG = 3

# How the entries of a paging structure are stored.  All are read as if they were 64-bit entries
# of 512-entry tables, so that one walk and one kind of node serve every paging mode.
cdef enum:
    FORM_64 = 0        # 64-bit entries in guest memory
    FORM_PD32 = 1      # 32-bit PDEs: each 4 MiB entry is seen as two of 2 MiB
    FORM_PT32 = 2      # 32-bit PTEs: half a table
    FORM_PDPTE = 3     # PAE: the four PDPTE registers
    FORM_ROOT32 = 4    # 32-bit paging: no level 3, four pretended entries
    FORM_FLAT = 5      # paging off: four pretended 1-GiB identity entries
    # paging off and A20 masked: pretended tables of 4-KiB entries, none with bit 20 in its frame
    FORM_MASKED3 = 6
    FORM_MASKED2 = 7
    FORM_MASKED1 = 8

cdef struct Walk:
    u64 linear
    u64 phys           # guest physical address of `linear`
    u64 entry[5]       # by level, 1..4
    u64 table[5]       # guest physical address of the table each was read from
    u32 form[5]
    u32 top            # level of the first entry read: 4, or 3 where there is no PML4
    u32 leaf           # level of the leaf: 1 4 KiB, 2 2 MiB, 3 1 GiB
    u32 error          # #PF error code when the walk failed
    bint write         # R/W of all levels
    bint user          # U/S of all levels
    bint nx

cdef struct Node:
    u64 table          # guest physical address of the entries
    u64 linear         # first linear address covered
    u32 form
    u32 level
    u32 region
    u32 free           # the next free node, while free
    u32 pad[8]
    u64 used[8]        # bitmaps of entries: something depends on it,
    u64 check[8]       # not only global pages do (compared at every CR3 load),
    u64 mapped[8]      # a leaf mapped in the window,
    u64 writable[8]    # mapped for writing, but for code pages,
    u64 fetched[8]     # instructions were fetched through it,
    u64 runs[8]        # a small page mapped for execution, in a direct process,
    u64 down[8]        # a table with a node of its own, whose index is in next[]
    u64 copy[512]      # entries as used
    u32 next[512]      # chain of all mapped leaves of the same guest frame; or the node below
    u32 prev[512]

cdef struct Region:
    u64 base           # address in `target`
    MapTarget* target  # the window is there: this process, or a direct one
    u64 linear         # first linear address of its slot, sign-extended
    u64 pml4e          # as used
    u32 owner          # 0: free
    u32 slot           # bits 51..36 of the linear address
    u32 user           # reachable by CPL 3: holds user pages only
    u32 kernel         # reachable by CPL 0-2
    u32 check          # holds pages that are not global
    u32 wp0            # holds pages mapped writable because CR0.WP was 0
    u32 fetched
    u32 top            # node of level 3, 0 for none
    u32 small          # leaves of 4 KiB mapped
    u32 large          # larger leaves mapped
    u32 holes          # code pages write-protected inside larger leaves, at most
    u32 maps           # host mappings inside, at most
    u32 next           # of the same owner
    u32 direct         # in a direct process: base is linear, and no slot leads there

cdef struct Owner:
    u64 key            # address space: CR3 and paging mode
    u64 stamp          # last loaded, for eviction
    u64 epoch          # last compared including global pages
    u32 id             # 0: free
    u32 group          # address space: its group's index in owners[]
    u32 regions        # list
    u32 global_pages   # may hold global pages, which survive CR3 loads but not INVLPG
    u32 unrecorded     # a fetch was not recorded, or regions ran out: forget all when loaded
    u32 programs       # address space: how often all that was mapped has gone at a CR3 load
    u32 crowded        # its direct process has reached the limit on mappings; the program is the same
    MapTarget* direct  # the direct process that runs its code of CPL 3, or NULL

# The translation of a linear page for one kind of access by compiled code, kept for the next.
cdef struct Tlb:
    u64 tag            # linear page | access bits | 1; 0: empty
    u64 phys           # of the page

cdef enum:
    TLB_SIZE = 64

# What belongs to one processor.  The machine's part is `ram`.
cdef struct Mmu:
    GuestRam* ram
    RamViewer viewer   # this processor, as RAM knows it
    MapTarget target   # where its windows are
    u64 faulted        # linear page of the last fault in a direct process
    # --- chains: by guest frame, 2 MiB, 1 GiB, the first mapped leaf (node << 9 | entry)
    u32* head4k
    u32* head2m
    u32* head1g
    # --- what walks depend on
    u32 mode           # PAGING_*
    u64 frame_mask
    u64 reserved       # high reserved bits of 64-bit entries
    u64 nx             # bit 63 if EFER.NXE
    u64 pdpte[4]
    u64 cr0, cr4, efer
    u32 phys_bits
    u32 wp
    u32 pge
    u32 a20_masked     # A20M#: bit 20 of physical addresses is 0 while paging is off
    # --- hooks
    unmapped_hook unmapped
    dropped_hook dropped
    left_hook left
    clean_hook clean
    seam_hook seam_clean
    replace_hook replace
    fits_hook fits
    # --- regions
    u64 arena          # host address of the first stride
    u64 arena_size
    u64 reserve        # the mapping the arena was aligned in
    u64 reserve_size
    u64 more           # a second mapping, behind what stands in the way of the first
    u64 more_size
    u32 region_count
    u32 region_free    # list
    u32 direct_free    # list of regions in direct processes
    u32 direct_known[256]  # those found lately, by slots (KNOWN_SLOTS)
    u32 node_free
    u32 nodes_fresh    # from here on never used
    u32 nodes_left
    u32 space          # owners[] index of the current address space
    u32 group          # and of its group
    u32 next_id
    u32 maps           # host mappings in all regions, at most
    u32 maps_limit
    # --- pages mapped ahead of their use (`ringlet.mmu.mappings`)
    Region* ahead      # the region they are in, or NULL
    u64 ahead_low      # linear
    u64 ahead_high
    u64 ahead_phys     # guest physical address that ahead_low shows
    Region* grown      # the last short mapping: its region, and where it ends
    u64 grown_linear
    u64 grown_phys
    u64 grown_size     # bytes that have been mapped in sequence, up to there
    u64 clock
    u64 epoch
    # --- a range about to be dropped or write-protected
    u64 range_low
    u64 range_high
    u32 range_kind
    u32 range_rights
    u64 code_low       # pages whose fetches must be looked up again
    u64 code_high
    u32 quiet          # an owner is being evicted: its identity ends, so no page need be named
    # --- a fault that repeats
    u64 last_page
    u32 last_err
    u32 repeats
    u64 self_size
    Tlb tlb[TLB_SIZE]
    Owner owners[73]
    Region regions[2240]   # ALL_REGIONS
    u64 group_top[8][256]  # groups: PML4 entries 256..511
    Node* nodes

cdef inline Mmu* mmu_of(CpuState* c) noexcept nogil:
    return <Mmu*>c.mmu

cdef extern from *:
    """
    /* The frame and XD of an entry. */
    #define RINGLET_FRAME_XD 0x800FFFFFFFFFF000ULL
    static inline void ringlet_or64(void* p, unsigned long long v)
    { __atomic_fetch_or((unsigned long long*)p, v, __ATOMIC_RELAXED); }
    static inline void ringlet_or32(void* p, unsigned v)
    { __atomic_fetch_or((unsigned*)p, v, __ATOMIC_RELAXED); }
    """
    const u64 FRAME_XD "RINGLET_FRAME_XD"
    const u64 A20 "(1ULL << 20)"
    void atomic_or64 "ringlet_or64"(void* p, u64 v) noexcept nogil
    void atomic_or32 "ringlet_or32"(void* p, u32 v) noexcept nogil

cdef inline u64 load_entry(Mmu* m, u32 form, u64 table, u32 index) noexcept nogil:
    """Return entry `index` of a paging structure as a 64-bit entry.  A read where there is no RAM
    gives all ones, as on an empty bus, and so a reserved-bit fault."""
    cdef u64 phys, raw, entry
    if form == FORM_64:
        phys = table + index * 8
        return (<u64*>ram_at(m.ram, phys))[0] if is_ram(m.ram, phys) else ~<u64>0
    if form == FORM_PT32:
        phys = table + index * 4
        if not is_ram(m.ram, phys):
            return ~<u64>0
        return (<u32*>ram_at(m.ram, phys))[0] & ~<u64>PTE_PS
    if form == FORM_PD32:
        phys = table + (index >> 1) * 4
        if not is_ram(m.ram, phys):
            return ~<u64>0
        raw = (<u32*>ram_at(m.ram, phys))[0]
        if not m.cr4 & CR4_PSE:
            return raw & ~<u64>PTE_PS
        if not raw & PTE_PS:
            return raw
        # PSE-36: bits 20..13 are bits 39..32 of the frame, bit 21 is reserved.
        entry = raw & <u64>0xFFC00FFF | (raw >> 13 & 0xFF) << 32 | <u64>(index & 1) << 21
        return entry | (raw >> 21 & 1) << 20
    if form == FORM_MASKED2:
        return table | <u64>index << 21 | PTE_P | PTE_W | PTE_U | PTE_A
    if form == FORM_MASKED1:
        return (table | index << 12) & ~A20 | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D
    if index > 3:
        return 0
    if form == FORM_MASKED3:
        return <u64>index << 30 | PTE_P | PTE_W | PTE_U | PTE_A
    if form == FORM_PDPTE:
        entry = m.pdpte[index]
        return entry & m.frame_mask | PTE_P | PTE_W | PTE_U | PTE_A if entry & PTE_P else 0
    if form == FORM_ROOT32:
        return table | PTE_P | PTE_W | PTE_U | PTE_A
    return <u64>index << 30 | PTE_P | PTE_W | PTE_U | PTE_A | PTE_D | PTE_PS

cdef inline void below(Mmu* m, u32 form, u64 entry, u32 index, u32* form_out,
                       u64* table_out) noexcept nogil:
    """Give the address and the form of the table that a non-leaf entry points to."""
    cdef u64 frame = entry & m.frame_mask
    if form == FORM_ROOT32:
        form_out[0] = FORM_PD32
        table_out[0] = frame + index * 1024
    elif form == FORM_PD32:
        form_out[0] = FORM_PT32
        table_out[0] = frame + (index & 1) * 2048
    elif form >= FORM_MASKED3:
        form_out[0] = form + 1
        table_out[0] = frame
    else:
        form_out[0] = FORM_64
        table_out[0] = frame

cdef inline u32 entry_index(u64 linear, u32 level) noexcept nogil:
    return <u32>(linear >> (3 + 9 * level)) & 511

cdef inline u64 leaf_size(u32 level) noexcept nogil:
    return <u64>1 << (3 + 9 * level)

cdef inline u64 slot_linear(u32 slot) noexcept nogil:
    """First linear address of a table index (bits 51..36), sign-extended."""
    return <u64>((<i64>(<u64>slot << 48)) >> 12)

cdef inline bint in_upper_half(u32 slot) noexcept nogil:
    return SLOT_COUNT // 2 <= slot < SLOT_COUNT

cdef inline u64 slot_size(u32 slot) noexcept nogil:
    return <u64>1 << (32 if slot == SLOT_LOW else SLOT_SHIFT)

cdef inline u32 slot_of(CpuState* c, u64 linear) noexcept nogil:
    """The slot in which the running code reaches a canonical address."""
    if c.key & (KEY_MODE16 | KEY_MODE32) and not linear >> 32:
        return SLOT_LOW
    return <u32>(linear >> SLOT_SHIFT) & (SLOT_COUNT - 1)

cdef inline u32 leaf_rights(Node* node, u32 entry, bint writable) noexcept nogil:
    """What a window allows with a mapped leaf."""
    cdef u32 rights = RIGHTS_WRITE if writable else RIGHTS_READ
    return rights | RIGHTS_RUN if bit_test(node.runs, entry) else rights

# --- slot tables

cdef inline bint in_arena(u64 arena, u64 size, u64 host) noexcept nogil:
    """A host address is in a region or a guard: what faults at any other address used a poisoned
    addend, or has another cause."""
    return host - arena < size

cdef inline u64 strides(u64 count) noexcept nogil:
    """Size of consecutive strides in bytes."""
    return count * STRIDE_UNITS << UNIT_SHIFT

cdef inline u32 stride_at(u64 distance) noexcept nogil:
    """The stride, and so the region, at a distance from the start of the arena."""
    return <u32>(distance >> UNIT_SHIFT) // STRIDE_UNITS

cdef inline bint in_guard(u64 distance) noexcept nogil:
    return <u32>(distance >> UNIT_SHIFT) % STRIDE_UNITS < GUARD_UNITS

cdef inline u64 poison(u32 slot) noexcept nogil:
    """An addend that makes every address of the index one that nothing is mapped at, whatever bits
    63..52 and a displacement add: bit 49 and bits 51..50 of the sum always differ.

    Where host addresses have 48 bits, such a sum is not canonical and raises #GP or #SS.  Where they
    have 57 bits (SDM 3A 4.5, CR4.LA57), it may be canonical and raises #PF: it is above 2^47, where
    Linux maps nothing for a process that does not ask for it, or in the kernel's half.
    """
    return (<u64>1 << 49) - (<u64>(slot & (SLOT_COUNT - 1)) << SLOT_SHIFT)

cdef inline u64 slot_addend(CpuState* c, u32 slot, bint user) noexcept nogil:
    if slot == SLOT_LOW:
        return c.low_host[user]
    return (<u64*>(c.block + (BLOCK_SLOTS_U if user else BLOCK_SLOTS_K)))[slot]

cdef inline void set_slot(CpuState* c, u32 slot, bint user, u64 addend) noexcept nogil:
    if slot == SLOT_LOW:
        c.low_host[user] = addend
        return
    (<u64*>(c.block + (BLOCK_SLOTS_U if user else BLOCK_SLOTS_K)))[slot] = addend
    (<u64*>(c.block + (BLOCK_NSLOTS_U if user else BLOCK_NSLOTS_K)))[slot] = -addend

cdef inline u32 slot_region(CpuState* c, Mmu* m, u32 slot, bint user) noexcept nogil:
    """The region a slot's table entry leads to, 0 for none."""
    cdef u64 addend = slot_addend(c, slot, user)
    if addend == poison(slot):
        return 0
    return stride_at(addend + slot_linear(slot) - m.arena)

cdef inline void tlb_flush(Mmu* m) noexcept nogil:
    cdef u32 i
    for i in range(TLB_SIZE):
        m.tlb[i].tag = 0
