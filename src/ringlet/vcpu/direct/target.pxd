"""The memory of direct processes, as the virtual MMU's target, and which of them are in use."""
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.direct.placement cimport Placement
from ringlet.direct.process cimport Direct, direct_command
from ringlet.mmu.map_target cimport MapTarget

cdef enum:
    SPACES_MAX = 64
    MAPS_MAX = 30000     # commands, each of which can make two mappings more; Linux allows 65,530
    FILES = 8
    REPLACED_MAX = 24    # dead processes that are replaced at once; then one in each second

# One direct process.
cdef struct DirectSpace:
    Direct* process      # NULL: none
    MapTarget target
    int file[FILES]      # of guest RAM, as this process numbers them
    u32 files
    u32 attached         # to an address space
    u32 dead
    u32 fresh            # the program there may be another one than at the last hand-over
    u64 loads            # of CR3 until its last hand-over
    u64 maps             # commands since all was unmapped
    u64 considered       # its processor time when the policy last looked, ns
    u32 last             # the last command's place in the queue, plus one; 0: none
    direct_command command   # itself; that in the queue is not read back

cdef enum:
    USES = 256

# What is known of an address space.
cdef struct Use:
    u32 space            # its identity (ringlet.mmu.mmu.mmu_space)
    u32 program          # and that of the program in it (mmu_program)
    u32 direct           # it runs directly
    u32 returns          # to CPL 3 in the current period
    u32 doublings        # of the time that it has to run translated before it is considered
    u64 user             # nanoseconds at CPL 3 in the current period, translated

cdef struct Policy:
    Use uses[USES]
    u64 sampled          # processor time of the thread at the last interrupt, ns
    bint always          # every space runs directly, whatever its traps suggest

# Of one virtual processor.
cdef struct DirectState:
    DirectSpace spaces[SPACES_MAX]
    Policy policy
    Placement placement
    u32 count            # of spaces[] in use, of which some can be dead
    u32 limit            # how many processes may live
    u32 replaced         # dead ones lately, less one for each second
    u64 replaced_at      # TSC of the host until which the seconds are counted
    u32 step             # the next instruction is to be translated
    u32 cpuid            # CPUID does not fault on this host, and is screened
    u32 int1_stays       # INT1 leaves RIP where it is, as under KVM on AMD's processors
    u64 stuck[4]         # RIP, RCX, RSI and RDI at the last page fault,
    u32 stuck_count      # and how often they were the same

cdef DirectSpace* space_of(MapTarget* target) noexcept nogil
# Tell whether one more process may be made.
cdef bint space_wanted(CpuState* c, DirectState* s) noexcept nogil
# How many live.
cdef u32 space_living(DirectState* s) noexcept nogil
# A new place, or else that of a dead process that nobody uses any more.  Only if one is wanted.
cdef u32 space_place(DirectState* s) noexcept nogil
# Prepare a process for use there; `files` are those of guest RAM in the order it has them, at most
# FILES.
cdef void space_add(DirectState* s, u32 place, Direct* process, const int* files,
                    u32 count) noexcept nogil
# A process that no address space has, and that can be trusted; NULL: there is none.
cdef DirectSpace* space_find(CpuState* c, DirectState* s) noexcept nogil
# Nothing of its former address space is left in it.
cdef void space_begin(CpuState* c, DirectSpace* s) noexcept nogil
# After a CR3 load there can be another program, which must find nothing of the last one: Linux uses
# the tables of a program that has ended again at once.
cdef void space_renew(CpuState* c, DirectSpace* s) noexcept nogil
# It is used no more.
cdef void space_lose(CpuState* c, DirectSpace* s) noexcept nogil
# Screen a page (`ringlet.mmu.mmu.clean_fn` and others).
cdef bint space_clean(CpuState* c, const u8* page) noexcept nogil
cdef bint space_replace(CpuState* c, const u8* before, u64 phys, u8* copy,
                        bint writable) noexcept nogil
cdef bint space_copy_fits(CpuState* c, const u8* before, u64 phys, const u8* copy,
                          bint writable) noexcept nogil
cdef bint space_seam_clean(CpuState* c, const u8* before, const u8* page) noexcept nogil
# An address space is forgotten (`ringlet.mmu.mmu.left_fn`).
cdef void space_left(CpuState* c, MapTarget* target) noexcept nogil
