"""Walks of the guest's paging structures (SDM 3A 4.3-4.8).

One loop serves every mode: `load_entry` shows each structure as 64-bit entries of 512-entry
tables.  A walk changes nothing; `mark_used` sets the accessed and dirty bits once the access is
known to be allowed, and updates the walk's copies, so that what is recorded is what stands in
guest memory afterwards.
"""
from ringlet.core.control_bits cimport (
    CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, EFER_LMA, EFER_LME, EFER_NXE)
from ringlet.core.state cimport (
    CpuState, CpuidEntry, u32, u64, ACC_FETCH, ACC_USER, ACC_WRITE, MEM_FAULT, MEM_OK, PF_P,
    PF_RSVD, VEC_GP, VEC_PF, is_canonical, raise_err)
from ringlet.mmu.layout cimport (
    FORM_64, FORM_FLAT, FORM_MASKED3, FORM_PD32, FORM_PDPTE, FORM_PT32, FORM_ROOT32, Mmu, PAGING_32,
    PAGING_LONG, PAGING_OFF, PAGING_PAE, PTE_A, PTE_D, PTE_P, PTE_PS, PTE_U, PTE_W, Walk,
    atomic_or32, atomic_or64, below, entry_index, leaf_size, load_entry)
from ringlet.mmu.ram cimport about_to_write, is_ram, ram_at

cdef u32 physical_bits(CpuState* c) noexcept nogil:
    """MAXPHYADDR by the guest's own CPUID table, leaf 80000008h (36 without it: SDM 3A 4.1.4).

    Everything that depends on MAXPHYADDR calls this function.
    """
    cdef CpuidEntry* entry = <CpuidEntry*>c.cpuid
    cdef u64 i
    for i in range(c.cpuid_count):
        if entry[i].leaf == <u32>0x80000008 and 32 <= entry[i].eax & 0xFF <= 52:
            return entry[i].eax & 0xFF
    return 36


cdef void read_paging_mode(CpuState* c, Mmu* m) noexcept nogil:
    """Take over what walks depend on from CR0, CR4, EFER and CPUID."""
    cdef u64 high
    m.cr0 = c.arch.cr0
    m.cr4 = c.arch.cr4
    m.efer = c.arch.efer
    m.wp = (c.arch.cr0 & CR0_WP) != 0
    m.pge = (c.arch.cr4 & CR4_PGE) != 0
    m.nx = (<u64>1 << 63) if c.arch.efer & EFER_NXE else 0
    if not c.arch.cr0 & CR0_PG:
        m.mode = PAGING_OFF
    elif not c.arch.cr4 & CR4_PAE:
        m.mode = PAGING_32
    elif c.arch.efer & (EFER_LMA | EFER_LME):
        m.mode = PAGING_LONG
    else:
        m.mode = PAGING_PAE
    m.phys_bits = physical_bits(c)
    m.frame_mask = ((<u64>1 << m.phys_bits) - 1) & ~<u64>0xFFF
    high = ~((<u64>1 << m.phys_bits) - 1)
    if m.mode == PAGING_LONG:
        # Bits 62..52 are ignored.
        m.reserved = high & <u64>0x800FFFFFFFFFFFFF & ~m.nx
    elif m.mode == PAGING_PAE:
        m.reserved = high & ~m.nx
    else:
        m.reserved = 0
        m.nx = 0


cdef bint load_pdptes(CpuState* c, Mmu* m) noexcept nogil:
    """Load the PDPTE registers (SDM 3A 4.4.1).  False: a reserved bit is set, MOV to CR raises
    #GP(0) and the registers keep their values."""
    cdef u64 table = c.arch.cr3 & <u64>0xFFFFFFE0
    cdef u64 entry[4]
    cdef u32 i
    for i in range(4):
        entry[i] = load_entry(m, FORM_64, table, i)
        if entry[i] & PTE_P and entry[i] & (0x1E6 | ~(m.frame_mask | 0xFFF)):
            return False
    for i in range(4):
        m.pdpte[i] = entry[i]
    return True


cdef bint walk(CpuState* c, Mmu* m, u64 linear, Walk* w) noexcept nogil:
    """Walk to the leaf.  False: not present or a reserved bit, w.error holds PF_P | PF_RSVD."""
    cdef u64 table, forbidden
    cdef u64 entry = 0
    cdef u32 level, index, form
    cdef u64 rights = PTE_W | PTE_U
    cdef u64 never = 0
    w.linear = linear
    form = FORM_64
    level = 3
    table = c.arch.cr3 & m.frame_mask
    if m.mode == PAGING_LONG:
        level = 4
    elif m.mode == PAGING_PAE:
        form = FORM_PDPTE
    elif m.mode == PAGING_32:
        form = FORM_ROOT32
        table &= <u64>0xFFFFFFFF
    else:
        form = FORM_MASKED3 if m.a20_masked else FORM_FLAT
    w.top = level
    while True:
        index = entry_index(linear, level)
        entry = load_entry(m, form, table, index)
        w.form[level] = form
        w.table[level] = table
        w.entry[level] = entry
        if not entry & PTE_P:
            w.error = 0
            return False
        forbidden = m.reserved
        if level == 4:
            forbidden |= PTE_PS
        elif level > 1 and entry & PTE_PS:
            # The frame's bits below the page size, but for PAT (bit 12).
            forbidden |= (leaf_size(level) - 1) & ~<u64>0x1FFF
        if form > FORM_64:
            forbidden &= 0x1FE000  # 32-bit entries: only what load_entry marks
        if entry & forbidden:
            w.error = PF_P | PF_RSVD
            return False
        rights &= entry
        never |= entry
        if level == 1 or (level < 4 and entry & PTE_PS):
            break
        below(m, form, entry, index, &form, &table)
        level -= 1
    w.leaf = level
    w.write = (rights & PTE_W) != 0
    w.user = (rights & PTE_U) != 0
    w.nx = (never & m.nx) != 0
    w.phys = (entry & m.frame_mask & ~(leaf_size(level) - 1)) | linear & (leaf_size(level) - 1)
    w.error = PF_P
    return True


cdef bint allowed(Mmu* m, Walk* w, u32 access) noexcept nogil:
    """Whether the rights of all levels allow the access (SDM 3A 4.6.1; SMEP, SMAP and protection
    keys are hidden from the guest)."""
    if access & ACC_USER and not w.user:
        return False
    if access & ACC_WRITE and not w.write and (access & ACC_USER or m.wp):
        return False
    return not (access & ACC_FETCH and w.nx)


cdef void set_entry_bits(Mmu* m, u32 form, u64 table, u32 index, u32 bits) noexcept nogil:
    """Set accessed or dirty in the guest's own table, whose page can hold code too."""
    cdef u64 phys
    if form == FORM_64:
        phys = table + index * 8
        if is_ram(m.ram, phys):
            about_to_write(m.ram, phys)
            atomic_or64(ram_at(m.ram, phys), bits)
    elif form == FORM_PT32 or form == FORM_PD32:
        phys = table + (index if form == FORM_PT32 else index >> 1) * 4
        if is_ram(m.ram, phys):
            about_to_write(m.ram, phys)
            atomic_or32(ram_at(m.ram, phys), bits)


cdef void mark_used(Mmu* m, Walk* w, bint dirty) noexcept nogil:
    """Set the accessed bit on every level and, for a write, the dirty bit on the leaf."""
    cdef u32 level = w.top
    cdef u32 bits
    while level >= w.leaf:
        bits = PTE_A
        if dirty and level == w.leaf:
            bits |= PTE_D
        if w.entry[level] & bits != bits:
            set_entry_bits(m, w.form[level], w.table[level], entry_index(w.linear, level), bits)
            w.entry[level] |= bits
        level -= 1


cdef int resolve(CpuState* c, Mmu* m, u64 linear, u32 access, Walk* w) noexcept nogil:
    """Walk for an access and set accessed and dirty bits.  MEM_OK, or MEM_FAULT with #PF (or
    #GP(0) for a non-canonical address) in exc_*."""
    cdef u32 error
    if m.mode != PAGING_LONG:
        linear &= <u64>0xFFFFFFFF
    elif not is_canonical(linear):
        raise_err(c, VEC_GP, 0)
        return MEM_FAULT
    if walk(c, m, linear, w) and allowed(m, w, access):
        mark_used(m, w, (access & ACC_WRITE) != 0)
        return MEM_OK
    error = w.error | access & (ACC_WRITE | ACC_USER)
    # The fetch bit is reported only where execution can be disabled (SDM 3A 4.7).
    if access & ACC_FETCH and m.nx:
        error |= ACC_FETCH
    raise_err(c, VEC_PF, error)
    c.exc_cr2 = linear
    return MEM_FAULT
