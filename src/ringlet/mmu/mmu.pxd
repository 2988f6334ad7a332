"""The virtual MMU's interface to the rest of the core.  See `ringlet.mmu` for how it works."""
from ringlet.core.state cimport CpuState, u8, u16, u32, u64, i64
from ringlet.mmu.layout cimport Mmu, mmu_of
from ringlet.mmu.map_target cimport MapTarget
from ringlet.mmu.ram cimport GuestRam

# Hooks.  They are called from within the functions below, so also in the signal handler.
# Translations fetched from these pages of the current address space (or its upper half) are gone
# or must be looked up again.
ctypedef void (*code_unmapped_fn)(CpuState* c, u64 linear, u64 pages) noexcept nogil
# A code page of guest RAM, by the address of its first byte, is about to be written, by this
# processor or another one on the same RAM: drop what was translated from it.
ctypedef void (*code_written_fn)(CpuState* c, u64 phys_page) noexcept nogil
# An address space or an upper half was evicted and its identity is gone; its pages are not named
# by code_unmapped.
ctypedef void (*space_dropped_fn)(CpuState* c, u32 space) noexcept nogil

# The address space that a direct process was attached to is gone, and nothing is mapped there.
ctypedef void (*left_fn)(CpuState* c, MapTarget* target) noexcept nogil

# Tell whether a direct process may execute a page, but for its first bytes; and these, with what
# begins on the page before it (NULL: unknown).
ctypedef bint (*clean_fn)(CpuState* c, const u8* page) noexcept nogil
# Make a copy of the page at a guest physical address without sensitive instructions.  False: there
# are other such bytes on it, or nothing on it was executed so far.
ctypedef bint (*replace_fn)(CpuState* c, const u8* before, u64 phys, u8* copy,
                            bint writable) noexcept nogil
# Tell whether such a copy is right behind this page too.
ctypedef bint (*fits_fn)(CpuState* c, const u8* before, u64 phys, const u8* copy,
                         bint writable) noexcept nogil
ctypedef bint (*seam_fn)(CpuState* c, const u8* before, const u8* page) noexcept nogil

# --- guest physical memory
cdef u8* ram_host(CpuState* c, u64 phys) noexcept nogil              # NULL: no RAM there
cdef int phys_read(CpuState* c, u64 phys, void* dst, u64 size) noexcept nogil   # MEM_OK | MEM_MMIO
cdef int phys_write(CpuState* c, u64 phys, const void* src, u64 size) noexcept nogil  # may call hooks

# --- linear accesses by compiled code (emulation, exception delivery).  `access` is ACC_WRITE |
# ACC_USER | ACC_FETCH.  MEM_FAULT leaves #PF (or #GP/#SS for a non-canonical address) in exc_*.
cdef int mmu_translate(CpuState* c, u64 linear, u32 access, u64* phys) noexcept nogil
cdef int mmu_read(CpuState* c, u64 linear, void* dst, u32 size, u32 access) noexcept nogil
cdef int mmu_write(CpuState* c, u64 linear, const void* src, u32 size, u32 access) noexcept nogil
# The walk alone, by which nothing changes; False: not mapped.
cdef bint mmu_look(CpuState* c, u64 linear, u64* phys) noexcept nogil
# Like mmu_translate for a fetch; records the entries so that a change of the mapping calls
# code_unmapped.
cdef int mmu_fetch(CpuState* c, u64 linear, u64* phys) noexcept nogil

# --- windows
# Addends in the slot tables change in mmu_load_cr3 and mmu_flush_all; elsewhere those of the
# running privilege only ever turn from poison to a region.  The other privilege's may change at any
# time, so bindings are formed anew when CPL changes between 3 and less.
#
# A host address is in a window or a guard between windows.  A host fault at any other address is one
# of an unused slot: as #GP or #SS, or, where the host's own addresses have 57 bits, as #PF.
cdef bint mmu_is_window(CpuState* c, u64 host) noexcept nogil
# A host SIGSEGV at `host` (si_addr, canonical) with the host's #PF error bits: MEM_OK (mapped: try
# again), MEM_FAULT, MEM_MMIO (mmio_phys, mmio_linear), or -1: not an address of a window (a guard,
# or not ours); *linear is filled for all but -1.
cdef int mmu_shadow_fault(CpuState* c, u64 host, u32 err, u64* linear) noexcept nogil
# The guest touched `linear`, whose slot has no region: give it one.  MEM_OK: try again; MEM_FAULT;
# MEM_MMIO: there is no region to be had before the next CR3 load, emulate the access.
cdef int mmu_slot_fault(CpuState* c, u64 linear, u32 access) noexcept nogil
# Give the slot of `linear`, in which no access is possible, a region all the same, so that the host
# says which fault comes first.  False: there is none to be had.
cdef bint mmu_slot_open(CpuState* c, u64 linear) noexcept nogil
# The linear address that a host address in a window stands for, of whatever space; 0 if it is none.
cdef u64 mmu_linear_of(CpuState* c, u64 host) noexcept nogil
# Map what a walk of `linear` gives, if it gives something; never raises.
cdef void mmu_prefill(CpuState* c, u64 linear, u32 access) noexcept nogil

# --- direct execution.  Code of CPL 3 in the current address space runs in another process, whose
# memory is `target`: its addresses are the linear ones.
cdef MapTarget* mmu_direct(CpuState* c) noexcept nogil      # NULL: there is none
cdef void mmu_direct_attach(CpuState* c, MapTarget* target) noexcept nogil
# Part the space that was loaded least recently, but for the current one, from its process; False:
# there is none.
cdef bint mmu_direct_yield(CpuState* c) noexcept nogil
# Part the current space from its process.
cdef void mmu_direct_leave(CpuState* c) noexcept nogil
# The same, because the process has as many mappings as it can have.
cdef void mmu_direct_crowded(CpuState* c) noexcept nogil
# Make an access possible there: MEM_OK, MEM_FAULT, MEM_MMIO, or -1: it is not to be had.
cdef int mmu_direct_fault(CpuState* c, u64 linear, u32 access) noexcept nogil
# `left` is called when an address space that has a direct process is forgotten, the others before
# it may execute a page.
cdef void mmu_direct_notify(CpuState* c, left_fn left, clean_fn clean, seam_fn seam_clean,
                            replace_fn replace, fits_fn fits) noexcept nogil
# The file of copies that direct processes execute in place of guest pages.
cdef int mmu_copies(CpuState* c) noexcept nogil

# --- events of the guest
cdef void mmu_load_cr3(CpuState* c) noexcept nogil       # c.arch.cr3 was written: compare, switch slots
cdef void mmu_flush_all(CpuState* c) noexcept nogil      # CR0.PG/WP, CR4.PGE/PAE, EFER.NXE changed
# The A20M# pin, which Intel defines for real mode; here it counts wherever paging is off.
cdef void mmu_mask_a20(CpuState* c, bint masked) noexcept nogil
cdef void mmu_invlpg(CpuState* c, u64 linear) noexcept nogil
cdef inline u32 mmu_space(CpuState* c, u64 linear) noexcept nogil:
    """The identity of the address space, for the half of it that `linear` is in."""
    cdef Mmu* m = mmu_of(c)
    return m.owners[m.group if linear >> 63 and m.group else m.space].id
cdef inline u32 mmu_program(CpuState* c) noexcept nogil:
    """A number that changes when another program is found in the current address space's tables."""
    cdef Mmu* m = mmu_of(c)
    return m.owners[m.space].programs

# A host address from which 104 GiB are never mapped.
cdef u64 mmu_nowhere(CpuState* c) noexcept nogil

# --- code pages, by any guest physical address inside
cdef void mmu_protect_code(CpuState* c, u64 phys_page) noexcept nogil
cdef void mmu_unprotect_code(CpuState* c, u64 phys_page) noexcept nogil

# --- life
# RAM is the caller's: it is there before, and is given back after `mmu_destroy`.
# The windows are in the address space of `target`, which is copied; NULL: in this process.
cdef int mmu_create(CpuState* c, GuestRam* ram, const MapTarget* target, code_unmapped_fn unmapped,
                    code_written_fn written, space_dropped_fn dropped) except -1 with gil
cdef void mmu_destroy(CpuState* c) noexcept
