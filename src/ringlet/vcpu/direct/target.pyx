"""The memory of direct processes, as the virtual MMU's target, and which of them are in use.

Nothing is mapped while the virtual processor runs: calls become commands, which the process carries
out before it goes on with the guest's code.  It never runs with fewer.

A dead process gives its place to a new one.  A guest can kill its processes, and each of them is a
fork of the host, so that only so many are replaced.
"""
from ringlet.cache.codecache cimport Cache
from ringlet.cache.fragment_map cimport cache_inner_bytes
from ringlet.core.alarm cimport to_ticks
from ringlet.core.host cimport host_ticks
from ringlet.core.state cimport CpuState, u8, u32, u64
from ringlet.direct.instructions cimport PAGE
from ringlet.direct.process cimport (
    Direct, DIRECT_COMMANDS, DIRECT_END, DIRECT_RAM, DIRECT_STUB, DIRECT_TOP, direct_again,
    direct_begin, direct_command, direct_command_add, direct_command_of, direct_cpu_ns,
    direct_renew, direct_signal)
from ringlet.direct.replacing cimport copy_leans, page_replace
from ringlet.direct.screening cimport PAGE_WORDS, page_clean, seam_clean
from ringlet.mmu.map_target cimport (
    MAP_AT_ONCE, MapTarget, RIGHTS_READ, RIGHTS_RUN, RIGHTS_WRITE)
from ringlet.mmu.mmu cimport ram_host
from ringlet.mmu.pages cimport PAGE_SHIFT
from ringlet.mmu.ram cimport Extent

cdef enum:
    SIG_KILL = 9
    LOWEST = 0x10000         # vm.mmap_min_addr of most hosts
    CALL_MMAP = 9
    CALL_MPROTECT = 10
    CALL_MUNMAP = 11
    SHARED_FIXED = 0x11
    POPULATE = 0x8000


cdef inline u64 protection(u32 rights) noexcept nogil:
    """PROT_READ is 1, PROT_WRITE 2, PROT_EXEC 4."""
    cdef u64 result = 0
    if rights & RIGHTS_READ:
        result = 1
    if rights & RIGHTS_WRITE & ~RIGHTS_READ:
        result |= 2
    if rights & RIGHTS_RUN:
        result |= 4
    return result


cdef void add(DirectSpace* s, direct_command command) noexcept nogil:
    if s.dead:
        return
    # The last place is for what ends the list.
    if s.process.commands == DIRECT_COMMANDS - 1:
        if not direct_again(s.process):
            s.dead = 1
            return
    s.maps += 1
    direct_command_add(s.process, command)
    s.last = s.process.commands
    s.command = command


cdef void take_back(DirectSpace* s) noexcept nogil:
    """Let the last command, which waits to be carried out, not be."""
    s.maps -= 1
    s.process.commands -= 1
    s.last = 0


cdef inline bint ours(u64 address, u64 size) noexcept nogil:
    """The range has addresses that guest pages cannot have, or the host may refuse."""
    return (address < LOWEST or address + size > DIRECT_TOP
            or (address < DIRECT_END and address + size > DIRECT_STUB))


cdef u64 no_reserve(MapTarget* t, u64 size) noexcept nogil:
    return 0


cdef void no_release(MapTarget* t, u64 address, u64 size) noexcept nogil:
    pass


cdef inline bint last_is(DirectSpace* s, u64 call) noexcept nogil:
    """The last command, which waits to be carried out, makes this system call."""
    return not s.dead and s.last and s.last == s.process.commands and s.command.number == call


cdef void forget_unmapping(DirectSpace* s, u64 address, u64 size) noexcept nogil:
    """Take the last command back if it unmaps what is going to be mapped: the guest's kernel
    invalidates a page that it copies for a write, and then maps the copy there."""
    cdef u64* unmapped = s.command.arguments
    if last_is(s, CALL_MUNMAP) and address <= unmapped[0] \
            and unmapped[0] + unmapped[1] <= address + size:
        take_back(s)


cdef void join_mapping(DirectSpace* s, direct_command* command) noexcept nogil:
    """Let a command map the last one's pages too, if it continues them at either end.

    Pages of code come one by one, for each is screened.
    """
    cdef u64* last = s.command.arguments
    cdef u64* m = command.arguments
    if not last_is(s, CALL_MMAP) or last[2] != m[2] or last[3] != m[3] or last[4] != m[4]:
        return
    if last[0] + last[1] == m[0] and last[5] + last[1] == m[5]:
        m[0] = last[0]
        m[5] = last[5]
    elif m[0] + m[1] != last[0] or m[5] + m[1] != last[5]:
        return
    m[1] += last[1]
    take_back(s)


cdef bint space_map(MapTarget* t, u64 address, const Extent* extent, u32 rights,
                    u32 flags) noexcept nogil:
    cdef DirectSpace* s = space_of(t)
    cdef u64 size = extent.pages << PAGE_SHIFT
    cdef u64 how = SHARED_FIXED | (POPULATE if flags & MAP_AT_ONCE else 0)
    cdef direct_command command
    cdef u32 i
    if ours(address, size):
        return False
    for i in range(s.files):
        if s.file[i] == extent.fd:
            forget_unmapping(s, address, size)
            command = direct_command_of(CALL_MMAP, address, size, protection(rights), how,
                                        DIRECT_RAM + i, extent.offset)
            join_mapping(s, &command)
            add(s, command)
            return True
    return False


cdef void unmap_part(DirectSpace* s, u64 low, u64 high) noexcept nogil:
    if low < high:
        add(s, direct_command_of(CALL_MUNMAP, low, high - low, 0, 0, 0, 0))


cdef bint space_unmap(MapTarget* t, u64 address, u64 pages) noexcept nogil:
    cdef DirectSpace* s = space_of(t)
    cdef u64 end = min(address + (pages << PAGE_SHIFT), <u64>DIRECT_TOP)
    if address < DIRECT_END and end > DIRECT_STUB:
        unmap_part(s, address, DIRECT_STUB)
        unmap_part(s, DIRECT_END, end)
    else:
        unmap_part(s, address, end)
    return True


cdef bint space_protect(MapTarget* t, u64 address, u64 pages, u32 rights) noexcept nogil:
    cdef u64 size = pages << PAGE_SHIFT
    if ours(address, size):
        return False
    add(space_of(t), direct_command_of(CALL_MPROTECT, address, size, protection(rights), 0, 0, 0))
    return True


cdef DirectSpace* space_of(MapTarget* target) noexcept nogil:
    return <DirectSpace*>target.context if target != NULL else NULL


cdef u32 space_living(DirectState* s) noexcept nogil:
    cdef u32 i, living = 0
    for i in range(s.count):
        living += not s.spaces[i].dead
    return living


cdef u32 space_place(DirectState* s) noexcept nogil:
    cdef u32 i
    if s.count < s.limit:
        return s.count
    for i in range(s.count):
        if s.spaces[i].dead and not s.spaces[i].attached:
            return i
    return s.count


cdef bint space_wanted(CpuState* c, DirectState* s) noexcept nogil:
    cdef u64 second, passed
    if space_living(s) >= s.limit:
        return False
    if space_place(s) == s.count:
        return s.count < s.limit
    if s.replaced:
        second = to_ticks(c, 1, 1)
        passed = (host_ticks() - s.replaced_at) // second
        s.replaced -= <u32>min(passed, <u64>s.replaced)
        s.replaced_at += passed * second
    return s.replaced < REPLACED_MAX


cdef void space_add(DirectState* s, u32 place, Direct* process, const int* files,
                    u32 count) noexcept nogil:
    cdef DirectSpace* space = &s.spaces[place]
    cdef u32 i
    if place == s.count:
        s.count += 1
    else:
        if not s.replaced:
            s.replaced_at = host_ticks()
        s.replaced += 1
    space.process = process
    space.files = count
    for i in range(count):
        space.file[i] = files[i]
    space.attached = space.dead = 0
    space.maps = 0
    space.last = 0
    space.target.reserve = no_reserve
    space.target.extend = NULL
    space.target.release = no_release
    space.target.map = space_map
    space.target.unmap = space_unmap
    space.target.protect = space_protect
    space.target.context = space
    space.target.ballast = 0


cdef DirectSpace* space_find(CpuState* c, DirectState* s) noexcept nogil:
    cdef DirectSpace* space
    cdef u32 i
    for i in range(s.count):
        space = &s.spaces[i]
        if space.attached or space.dead:
            continue
        # What the last program had is unmapped here.  A process that this program left in an odd
        # state must not meet the next one.
        if direct_again(space.process):
            return space
        space_lose(c, space)
    return NULL


cdef void space_left(CpuState* c, MapTarget* target) noexcept nogil:
    # The MMU has unmapped all its regions.
    space_of(target).attached = 0


cdef void space_begin(CpuState* c, DirectSpace* s) noexcept nogil:
    direct_begin(s.process)
    s.fresh = 1
    s.loads = c.n_cr3_loads
    s.considered = direct_cpu_ns(s.process)
    s.attached = 1


cdef void space_renew(CpuState* c, DirectSpace* s) noexcept nogil:
    if s.loads != c.n_cr3_loads:
        direct_renew(s.process)
        s.fresh = 1
        s.loads = c.n_cr3_loads


cdef void space_lose(CpuState* c, DirectSpace* s) noexcept nogil:
    s.dead = 1
    direct_signal(s.process.pidfd, SIG_KILL)
    c.n_direct_lost += 1


cdef bint space_clean(CpuState* c, const u8* page) noexcept nogil:
    return page_clean(page, (<DirectState*>c.direct).cpuid)


cdef bint space_seam_clean(CpuState* c, const u8* before, const u8* page) noexcept nogil:
    return seam_clean(before, page, (<DirectState*>c.direct).cpuid)


cdef bint make_copy(CpuState* c, const u8* before, u64 phys, u8* copy, bint writable,
                    bint executed) noexcept nogil:
    """Make a copy of a page; `executed`: only if translated code has executed something there."""
    cdef u64[PAGE_WORDS] inner
    cdef u32 i
    for i in range(PAGE_WORDS):
        inner[i] = 0
    if not cache_inner_bytes(<Cache*>c.cache, phys, inner) and executed:
        return False
    return page_replace(before, ram_host(c, phys), inner, copy, writable,
                        (<DirectState*>c.direct).cpuid)


cdef bint space_replace(CpuState* c, const u8* before, u64 phys, u8* copy,
                        bint writable) noexcept nogil:
    return make_copy(c, before, phys, copy, writable, True)


cdef bint space_copy_fits(CpuState* c, const u8* before, u64 phys, const u8* copy,
                          bint writable) noexcept nogil:
    cdef u8[PAGE] other
    cdef u32 i
    if not copy_leans(ram_host(c, phys), copy):
        return True
    if not make_copy(c, before, phys, other, writable, False):
        return False
    for i in range(PAGE):
        if other[i] != copy[i]:
            return False
    return True
