"""A virtual MMU on its own, for tests and measurements: no translator, no signal handler.

`Probe` owns a block with a CpuState and drives the interface of `ringlet.mmu.mmu` from Python.
Window accesses are made only where /proc/self/mem allows them, so that a missing mapping is an
answer and not a crash.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from posix.mman cimport (
    mmap, munmap, MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE)
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from ringlet.core.state cimport (
    ArchState, BLOCK_NSLOTS_K, BLOCK_NSLOTS_U, BLOCK_SIZE, BLOCK_SLOTS_K, BLOCK_SLOTS_U,
    CpuidEntry, CpuState, SLOT_COUNT, u8, u32, u64)
from ringlet.direct.instructions cimport PAGE
from ringlet.direct.process cimport DirectProcess
from ringlet.direct.replacing cimport page_replace
from ringlet.direct.screening cimport PAGE_WORDS
from ringlet.mmu.layout cimport Mmu, mmu_of
from ringlet.mmu.map_target cimport (
    Extent, MapTarget, map_frames, protect_frames, resolve, target_here, unmap_frames)
from ringlet.mmu.ram cimport GuestRam, ram_create, ram_destroy
from ringlet.mmu.mmu cimport (
    mmu_copies, mmu_create, mmu_destroy, mmu_direct, mmu_direct_attach, mmu_direct_crowded,
    mmu_direct_fault, mmu_direct_leave, mmu_direct_notify, mmu_fetch, mmu_flush_all, mmu_invlpg,
    mmu_is_window,
    mmu_load_cr3, mmu_prefill, mmu_program, mmu_protect_code, mmu_read, mmu_shadow_fault,
    mmu_slot_fault, mmu_space, mmu_translate, mmu_unprotect_code, mmu_write, phys_read, phys_write,
    ram_host)
from ringlet.vcpu.direct.target cimport (
    DirectSpace, DirectState, space_add, space_begin, space_clean, space_left, space_of,
    space_place, space_seam_clean)

cdef extern from * nogil:
    """
    #include <sys/mman.h>
    typedef volatile unsigned long long volatile_u64;
    """
    ctypedef u64 volatile_u64
    int MAP_32BIT

cdef enum:
    LOG = 256


cdef struct Log:
    # What the hooks were told; reached through CpuState.cache.
    u64 unmapped[LOG][2]
    u64 written[LOG]
    u64 dropped[LOG]
    u32 n_unmapped
    u32 n_written
    u32 n_dropped


cdef void on_unmapped(CpuState* c, u64 linear, u64 pages) noexcept nogil:
    cdef Log* log = <Log*>c.cache
    if log.n_unmapped < LOG:
        log.unmapped[log.n_unmapped][0] = linear
        log.unmapped[log.n_unmapped][1] = pages
        log.n_unmapped += 1


cdef void on_written(CpuState* c, u64 phys_page) noexcept nogil:
    cdef Log* log = <Log*>c.cache
    if log.n_written < LOG:
        log.written[log.n_written] = phys_page
        log.n_written += 1


cdef void on_dropped(CpuState* c, u32 space) noexcept nogil:
    cdef Log* log = <Log*>c.cache
    if log.n_dropped < LOG:
        log.dropped[log.n_dropped] = space
        log.n_dropped += 1


cdef bint replace(CpuState* c, const u8* before, u64 phys, u8* copy,
                  bint writable) noexcept nogil:
    """Make a copy without the knowledge of a code cache."""
    cdef u64[PAGE_WORDS] inner
    cdef u32 i
    for i in range(PAGE_WORDS):
        inner[i] = 0
    return page_replace(before, ram_host(c, phys), inner, copy, writable, False)


cdef bint copy_fits(CpuState* c, const u8* before, u64 phys, const u8* copy,
                    bint writable) noexcept nogil:
    cdef u8[PAGE] other
    return replace(c, before, phys, other, writable) and memcmp(copy, other, PAGE) == 0


cdef u64 now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return <u64>t.tv_sec * 1000000000 + <u64>t.tv_nsec


# --- a target that is not where the MMU believes it to be

cdef struct Elsewhere:
    # Addresses from `base` on, `size` bytes, stand for others `shift` bytes away; reached through
    # MapTarget.context.
    u64 base
    u64 size
    u64 shift
    u64 refuse_map_after   # calls of map


cdef inline u64 moved(MapTarget* t, u64 address) noexcept nogil:
    cdef Elsewhere* e = <Elsewhere*>t.context
    return address + e.shift if address - e.base < e.size else address


cdef u64 elsewhere_reserve(MapTarget* t, u64 size) noexcept nogil:
    """The largest reservation is the one that is moved: the arena."""
    cdef Elsewhere* e = <Elsewhere*>t.context
    cdef MapTarget here
    target_here(&here)
    cdef u64 address = here.reserve(&here, size)
    cdef u64 other
    if address and size > e.size:
        other = here.reserve(&here, size)
        if not other:
            here.release(&here, address, size)
            return 0
        e.base = address
        e.size = size
        e.shift = other - address
    return address


cdef void elsewhere_release(MapTarget* t, u64 address, u64 size) noexcept nogil:
    cdef MapTarget here
    target_here(&here)
    here.release(&here, address, size)
    if moved(t, address) != address:
        here.release(&here, moved(t, address), size)


cdef bint elsewhere_map(MapTarget* t, u64 address, const Extent* extent, u32 rights,
                        u32 flags) noexcept nogil:
    cdef Elsewhere* e = <Elsewhere*>t.context
    cdef MapTarget here
    target_here(&here)
    if e.refuse_map_after == 0:
        return False
    e.refuse_map_after -= 1
    return here.map(&here, moved(t, address), extent, rights, flags)


cdef bint elsewhere_unmap(MapTarget* t, u64 address, u64 pages) noexcept nogil:
    cdef MapTarget here
    target_here(&here)
    return here.unmap(&here, moved(t, address), pages)


cdef bint elsewhere_protect(MapTarget* t, u64 address, u64 pages, u32 rights) noexcept nogil:
    cdef MapTarget here
    target_here(&here)
    return here.protect(&here, moved(t, address), pages, rights)


cdef void target_elsewhere(MapTarget* t, Elsewhere* e) noexcept nogil:
    t.reserve = elsewhere_reserve
    t.extend = NULL
    t.release = elsewhere_release
    t.map = elsewhere_map
    t.unmap = elsewhere_unmap
    t.protect = elsewhere_protect
    t.context = e
    t.ballast = 0
    e.base = e.size = e.shift = 0
    e.refuse_map_after = ~<u64>0


cdef class Frames:
    """Guest RAM of `ram_size` bytes, and an area of `area_pages` pages to show its frames in."""
    cdef GuestRam* ram
    cdef Frames parent
    cdef Elsewhere elsewhere
    cdef MapTarget target
    cdef readonly u64 area
    cdef u64 area_size

    def __cinit__(self, ram_size: int, area_pages: int = 64):
        target_elsewhere(&self.target, &self.elsewhere)
        self.ram = ram_create(ram_size)
        self.area_size = area_pages * 4096
        self.area = self.target.reserve(&self.target, self.area_size)
        if not self.area:
            raise MemoryError("no room for the area")

    def __dealloc__(self):
        if self.area:
            self.target.release(&self.target, self.area, self.area_size)
        ram_destroy(self.ram)

    @property
    def shift(self) -> int:
        """What is to be added to an address of the area to find it in this process."""
        return self.elsewhere.shift

    def resolve(self, frame: int) -> tuple[int, int] | None:
        """Offset in the file and number of frames from there on; None where there is no RAM."""
        cdef Extent found
        return (found.offset, found.pages) if resolve(self.ram, frame, &found) else None

    def file(self, frame: int) -> int:
        """Descriptor of the file that has the contents of `frame`."""
        cdef Extent found
        if not resolve(self.ram, frame, &found):
            raise ValueError("no RAM")
        return found.fd

    def borrow(self, parent: Frames, frame: int) -> None:
        """Take the contents of `frame` and all behind it from the RAM of `parent`."""
        cdef Extent* mine = &self.ram.extents[0]
        cdef u64 theirs = parent.ram.extents[0].pages
        if self.ram.extent_count != 1 or frame >= mine.pages or mine.pages > theirs:
            raise ValueError("RAM in one piece, and a parent with as much")
        self.parent = parent
        resolve(parent.ram, frame, &self.ram.extents[1])
        self.ram.extents[1].pages = mine.pages - <u64>frame
        mine.pages = frame
        self.ram.extent_count = 2

    def refuse_map_after(self, calls: int) -> None:
        self.elsewhere.refuse_map_after = calls

    def map(self, page: int, frame: int, pages: int, rights: int) -> int:
        """Show frames from `page` of the area on; gives the number of calls."""
        return map_frames(&self.target, self.ram, self.area + page * 4096, frame, pages, rights, 0)

    def unmap(self, page: int, pages: int) -> None:
        unmap_frames(&self.target, self.area + page * 4096, pages)

    def protect(self, page: int, pages: int, rights: int) -> bool:
        return bool(protect_frames(&self.target, self.area + page * 4096, pages, rights))


cdef class Probe:
    """One virtual MMU with `ram_size` bytes of guest RAM of its own, or with that of `beside`.

    Its windows are where it believes them to be, or `away`.
    """
    cdef CpuState* c
    cdef GuestRam* own
    cdef Probe beside
    cdef Elsewhere elsewhere
    cdef Log log
    cdef CpuidEntry cpuid[1]
    cdef list processes

    def __cinit__(self, ram_size: int, physical_bits: int = 46, maps_limit: int = 0,
                  beside: Probe = None, away: bool = False):
        cdef GuestRam* ram
        cdef MapTarget target
        cdef void* block = mmap(NULL, BLOCK_SIZE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT, -1, 0)
        if block == MAP_FAILED:
            raise MemoryError("no room for a block below 2 GiB")
        self.c = <CpuState*>block
        self.c.block = <u64>block
        self.c.cache = &self.log
        self.cpuid[0].leaf = 0x80000008
        self.cpuid[0].eax = physical_bits
        self.c.cpuid = self.cpuid
        self.c.cpuid_count = 1
        self.processes = []
        self.beside = beside
        if beside is None:
            self.own = ram_create(ram_size)
        ram = self.own if beside is None else mmu_of(beside.c).ram
        target_here(&target)
        if away:
            target_elsewhere(&target, &self.elsewhere)
        mmu_create(self.c, ram, &target, on_unmapped, on_written, on_dropped)
        if maps_limit:
            mmu_of(self.c).maps_limit = maps_limit

    def __dealloc__(self):
        if self.c != NULL:
            mmu_destroy(self.c)
            free(self.c.direct)
            munmap(self.c, BLOCK_SIZE)
        ram_destroy(self.own)

    @property
    def shift(self) -> int:
        """What is to be added to an address in a window to find it in this process."""
        return self.elsewhere.shift

    # --- registers

    def set_registers(self, cr0: int, cr3: int, cr4: int, efer: int, cpl: int) -> None:
        cdef ArchState* a = &self.c.arch
        a.cr0, a.cr3, a.cr4, a.efer, a.cpl = cr0, cr3, cr4, efer, cpl

    @property
    def cpl(self) -> int:
        return self.c.arch.cpl

    @cpl.setter
    def cpl(self, value: int) -> None:
        self.c.arch.cpl = value

    @property
    def exception(self) -> tuple[int, int, int]:
        """Vector, error code, CR2 of the last fault."""
        return self.c.exc_vector, self.c.exc_error, self.c.exc_cr2

    @property
    def mmio(self) -> tuple[int, int]:
        return self.c.mmio_phys, self.c.mmio_linear

    # --- guest physical memory

    def has_ram(self, phys: int) -> bool:
        return ram_host(self.c, phys) != NULL

    def read_phys(self, phys: int, size: int) -> bytes | None:
        data = bytearray(size)
        cdef u8[::1] view = data
        return None if phys_read(self.c, phys, &view[0], size) else bytes(data)

    def write_phys(self, phys: int, data: bytes) -> bool:
        cdef const u8[::1] view = data
        return phys_write(self.c, phys, &view[0], <u32>len(data)) == 0

    def entry(self, phys: int) -> int:
        return (<u64*>ram_host(self.c, phys))[0]

    def set_entry(self, phys: int, value: int) -> None:
        """Store a table entry as a guest's own store would: no hook, no flush."""
        (<u64*>ram_host(self.c, phys))[0] = value

    # --- linear accesses

    def translate(self, linear: int, access: int = 0) -> tuple[int, int]:
        cdef u64 phys = 0
        cdef int result = mmu_translate(self.c, linear, access, &phys)
        return result, phys

    def fetch(self, linear: int) -> tuple[int, int]:
        cdef u64 phys = 0
        cdef int result = mmu_fetch(self.c, linear, &phys)
        return result, phys

    def read(self, linear: int, size: int, access: int = 0) -> tuple[int, bytes]:
        data = bytearray(size)
        cdef u8[::1] view = data
        cdef int result = mmu_read(self.c, linear, &view[0], size, access)
        return result, bytes(data)

    def write(self, linear: int, data: bytes, access: int = 0) -> int:
        cdef const u8[::1] view = data
        return mmu_write(self.c, linear, &view[0], <u32>len(data), access)

    # --- windows

    def shadow_fault(self, host: int, err: int = 0) -> tuple[int, int]:
        cdef u64 linear = 0
        cdef int result = mmu_shadow_fault(self.c, host, err, &linear)
        return result, linear

    def slot_fault(self, linear: int, access: int = 0) -> int:
        return mmu_slot_fault(self.c, linear, access)

    def prefill(self, linear: int, access: int = 0) -> None:
        mmu_prefill(self.c, linear, access)

    def addend(self, linear: int, user: bool = False) -> int:
        """The slot table's entry for an address."""
        cdef u64 block = self.c.block + (BLOCK_SLOTS_U if user else BLOCK_SLOTS_K)
        return (<u64*>block)[<u64>linear >> 36 & 0xFFFF]

    def host(self, linear: int, user: bool = False) -> int:
        """Where translated code would look for a linear address."""
        return (linear + self.addend(linear, user)) & (1 << 64) - 1

    def slots(self, user: bool, negated: bool = False) -> list[int]:
        cdef u64 block = self.c.block
        if user:
            block += BLOCK_NSLOTS_U if negated else BLOCK_SLOTS_U
        else:
            block += BLOCK_NSLOTS_K if negated else BLOCK_SLOTS_K
        return [(<u64*>block)[index] for index in range(SLOT_COUNT)]

    def is_window(self, host: int) -> bool:
        """Whether a host fault at `host` is taken for one of a window or a guard."""
        return mmu_is_window(self.c, host)

    def regions(self) -> list[int]:
        """Host addresses of all regions lent to a slot."""
        cdef Mmu* m = mmu_of(self.c)
        return [m.regions[i].base for i in range(m.region_count) if m.regions[i].owner]

    # --- direct processes

    def files(self) -> list[int]:
        """The files that a direct process is made with: of RAM in one piece, and of copies."""
        return [mmu_of(self.c).ram.fd, mmu_copies(self.c)]

    def add_process(self, process: DirectProcess) -> None:
        """Attach a process that was made with `files` to the current address space."""
        cdef DirectState* state = <DirectState*>self.c.direct
        cdef int files[2]
        cdef u32 place
        if state == NULL:
            state = <DirectState*>calloc(1, sizeof(DirectState))
            self.c.direct = state
            mmu_direct_notify(self.c, space_left, space_clean, space_seam_clean, replace, copy_fits)
        place = space_place(state)
        files[0], files[1] = self.files()
        space_add(state, place, &process.d, files, 2)
        self.processes.append(process)
        space_begin(self.c, &state.spaces[place])
        mmu_direct_attach(self.c, &state.spaces[place].target)

    def leave_process(self) -> None:
        """Part the current address space from its process."""
        mmu_direct_leave(self.c)

    def crowd_process(self) -> None:
        """Part the current address space from its process, as if that had too many mappings."""
        mmu_direct_crowded(self.c)

    def direct_fault(self, linear: int, access: int) -> int:
        """Make an access of CPL 3 possible in the process of the current address space."""
        return mmu_direct_fault(self.c, linear, access)

    def process_dead(self) -> bool:
        """Whether the process of the current address space was given up."""
        cdef DirectSpace* space = space_of(mmu_direct(self.c))
        return space == NULL or space.dead != 0

    # --- events

    def load_cr3(self, cr3: int) -> None:
        self.c.arch.cr3 = cr3
        mmu_load_cr3(self.c)

    def flush_all(self) -> None:
        mmu_flush_all(self.c)

    def invlpg(self, linear: int) -> None:
        mmu_invlpg(self.c, linear)

    def space(self, linear: int = 0) -> int:
        return mmu_space(self.c, linear)

    def program(self) -> int:
        return mmu_program(self.c)

    def protect_code(self, phys: int) -> None:
        mmu_protect_code(self.c, phys)

    def unprotect_code(self, phys: int) -> None:
        mmu_unprotect_code(self.c, phys)

    def hooks(self) -> tuple[list[tuple[int, int]], list[int], list[int]]:
        """What the hooks were told since the last call: unmapped, written, dropped."""
        unmapped = [(self.log.unmapped[i][0], self.log.unmapped[i][1])
                    for i in range(self.log.n_unmapped)]
        written = [self.log.written[i] for i in range(self.log.n_written)]
        dropped = [self.log.dropped[i] for i in range(self.log.n_dropped)]
        self.log.n_unmapped = self.log.n_written = self.log.n_dropped = 0
        return unmapped, written, dropped

    def counters(self) -> dict[str, int]:
        cdef Mmu* m = mmu_of(self.c)
        return {"shadow_faults": self.c.n_shadow_faults, "shadow_pages": self.c.n_shadow_pages,
                "cr3_loads": self.c.n_cr3_loads, "cr3_dropped": self.c.n_cr3_dropped,
                "invlpg": self.c.n_invlpg, "maps": m.maps, "nodes_left": m.nodes_left,
                "spaces_full": self.c.n_spaces_full, "groups_full": self.c.n_groups_full,
                "regions_full": self.c.n_regions_full, "nodes_full": self.c.n_nodes_full,
                "maps_full": self.c.n_maps_full,
                "arena": m.arena, "arena_size": m.arena_size}

    # --- measurements, in nanoseconds an operation

    def time_faults(self, linears: list[int], err: int = 0) -> float:
        cdef u64 start, host
        cdef u64 linear = 0
        cdef u64 spent = 0
        for address in linears:
            host = self.host(address, self.c.arch.cpl == 3)
            start = now()
            mmu_shadow_fault(self.c, host, err, &linear)
            spent += now() - start
        return spent / len(linears)

    def time_cr3_loads(self, roots: list[int], rounds: int) -> float:
        cdef u64 start
        cdef u64 root[64]
        cdef u32 i, j
        cdef u32 n = <u32>len(roots)
        cdef u32 count = rounds
        for i in range(n):
            root[i] = roots[i]
        start = now()
        for i in range(count):
            for j in range(n):
                self.c.arch.cr3 = root[j]
                mmu_load_cr3(self.c)
        return (now() - start) / (rounds * n)

    def time_invlpg(self, linear: int, pte: int, frames: list[int], rounds: int) -> float:
        """Change a PTE between frames, INVLPG, touch."""
        cdef u64 start, at = linear
        cdef u64 host = self.host(linear, self.c.arch.cpl == 3)
        cdef u64* entry = <u64*>ram_host(self.c, pte)
        cdef u64 frame[2]
        cdef u32 i, count = rounds
        cdef u64 total = 0
        frame[0], frame[1] = frames
        start = now()
        for i in range(count):
            entry[0] = frame[i & 1]
            mmu_invlpg(self.c, at)
            total += (<volatile_u64*>host)[0]
        self.c.scratch[0] = total
        return (now() - start) / rounds

    def time_protect(self, pages: list[int]) -> float:
        cdef u64 start = now()
        for page in pages:
            mmu_protect_code(self.c, page)
        return (now() - start) / len(pages)

    def time_translate(self, linears: list[int], rounds: int) -> float:
        cdef u64 start, at
        cdef u64 phys = 0
        cdef u32 turn, count = rounds
        start = now()
        for address in linears:
            at = address
            for turn in range(count):
                mmu_translate(self.c, at, 0, &phys)
        return (now() - start) / (rounds * len(linears))
