"""`Processor`: the interface of one virtual CPU and its guest memory to Python."""
from collections.abc import Callable
from typing import NamedTuple

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from ringlet.core.state cimport *
from ringlet.core.template cimport STUB_COUNT
from ringlet.core.alarm cimport alarm_attach, alarm_destroy
from ringlet.core.host cimport host_map_low, host_unmap
from ringlet.core.prod cimport prod_attach, prod_detach
from ringlet.core.signals cimport install_handlers, enter_thread, leave_thread
from ringlet.core.vectors cimport vectors_load, vectors_save
from ringlet.cache.codecache cimport (
    Cache, cache_create, cache_destroy, cache_flush, cache_size_for, cache_used)
from ringlet.mmu.ram cimport GuestRam, ram_create, ram_destroy
from ringlet.direct.placement cimport placement_leave
from ringlet.direct.process cimport DirectProcess
from ringlet.mmu.mmu cimport mmu_create, mmu_destroy, mmu_copies, mmu_direct_notify, \
    mmu_flush_all
from ringlet.vcpu.direct.target cimport (
    DirectState, SPACES_MAX, space_add, space_clean, space_left, space_living, space_place,
    space_copy_fits, space_replace, space_seam_clean)
from ringlet.translate.builder cimport Builder
from ringlet.translate.kept_translations cimport KeptTranslations
from ringlet.translate.learn_table cimport LearnTables
from ringlet.vcpu.apic.local cimport (
    INTR_EXTERNAL, apic_create, apic_destroy, apic_holds, apic_read, apic_update, apic_write)
from ringlet.vcpu.system.dispatch cimport complete
from ringlet.vcpu.system.doorbells cimport DOORBELL_MEMORY, doorbell_rings, doorbells_destroy
from ringlet.vcpu.loop.events cimport deliver_exception, nmi_due
from ringlet.vcpu.loop.exceptions cimport interrupt
from ringlet.vcpu.debug.blocks cimport Blocks, blocks_create, blocks_destroy
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.debug.stops cimport debug_forget, debug_holds
from ringlet.vcpu.debug.requests cimport (blocks_events, debug_destroy, debug_go, debug_poke,
                                     debug_set_breaks, debug_set_watches, debug_why)
from ringlet.vcpu.loop.faults cimport fpu_pointer, handle_fault
from ringlet.vcpu.system.mmio cimport device_answer
from ringlet.vcpu.emulation.host_conduct cimport conduct_on_host
from ringlet.vcpu.emulation.native cimport Native, native_create
from ringlet.vcpu.system.pending cimport PENDING_OP
from ringlet.vcpu.system.sites cimport sites_create, sites_destroy
from ringlet.vcpu.processor_state cimport ProcessorState
from ringlet.vcpu.reset cimport reset
from ringlet.vcpu.loop.fragments cimport code_unmapped, code_written, space_dropped
from ringlet.vcpu.loop.run cimport begin_run, end_run, run_loop

from ringlet.arch.cpuid import features_of
from ringlet.vcpu.emulation.emulator import Emulator
from ringlet.vcpu.fields import COUNTERS
from ringlet.vcpu.model import default_entries, tsc_khz


class ExitInfo(NamedTuple):
    """The fields of the last exit; its kind decides which of them are valid."""

    port: int
    size: int
    count: int
    data: int
    phys: int
    linear: int
    rip: int


cdef class Processor(ProcessorState):
    """One virtual CPU and its guest physical memory of `ram_size` bytes.

    Without `speculate` the arithmetic flags are exact at every fault and no access runs ahead of
    a bounds check, which is slower.  With `keep` the processor reuses translations of equal code at
    other addresses, and its `kept` translations may come from an earlier run.  It behaves as
    `vendor`'s processors do, by default the host's vendor.

    Only one thread at a time may use it, except for the methods that any thread may call.
    """

    cdef GuestRam* ram
    cdef Builder* builder
    cdef LearnTables tables
    cdef readonly KeptTranslations kept
    cdef Native native
    cdef object emulator
    cdef object emulation   # an instruction that waits for the machine, or None
    cdef bint holds         # its exception goes to `exception`: vector, error or None, CR2
    cdef readonly tuple exception
    cdef u64 emulated       # number of instructions given to the emulator
    cdef int waiting        # an exit that the next `run` has to return
    cdef object port_read   # callbacks for IN and OUT within `run`, or None
    cdef object port_write
    cdef object memory_read    # callbacks for accesses where there is no RAM, or None
    cdef object memory_write
    cdef object level_ended    # callback for the end of level-triggered interrupts, or None
    cdef object direct_make    # makes a direct process, or None
    cdef list direct_processes
    cdef object block_begins   # callback before each block, or None
    cdef u64 port_reads
    cdef u64 port_writes
    cdef readonly unsigned long ram_size

    def __cinit__(self, unsigned long ram_size, cpuid=None, bint speculate=True,
                  bint keep=False, vendor=None):
        cdef void* block = host_map_low(BLOCK_SIZE)
        if block == NULL:
            raise MemoryError("no room below 2 GiB for the virtual processor's state")
        self.c = <CpuState*>block
        self.c.block = <u64>block
        self.ram_size = ram_size
        reset(self.c)
        apic_create(self.c)
        sites_create(self.c)
        self.c.fpu_pointer = <void*>fpu_pointer
        self.builder = <Builder*>calloc(1, sizeof(Builder))
        if self.builder == NULL:
            raise MemoryError("translator")
        self.builder.speculate = speculate
        rows = list(cpuid if cpuid is not None else default_entries())
        self.tables = LearnTables(features_of(rows))
        self.tables.attach(self.c.shapes)
        if keep:
            self.kept = KeptTranslations(self.tables)
            self.c.kept = &self.kept.k
        self.native = native_create(self.c)
        self.emulator = Emulator(self.native, self.tables.all[0].features)
        cache_create(self.c, cache_size_for(ram_size))
        self.c.arch.tsc_khz = tsc_khz()
        alarm_attach(self.c)
        self.set_cpuid(rows)
        self.ram = ram_create(ram_size)
        mmu_create(self.c, self.ram, NULL, code_unmapped, code_written, space_dropped)
        install_handlers(handle_fault)
        self.c.conduct = conduct_on_host(self.native, vendor)
        update_key(self.c)

    def __dealloc__(self):
        if self.c != NULL:
            alarm_destroy(self.c)
            prod_detach(self.c)
            mmu_destroy(self.c)
            cache_destroy(self.c)
            apic_destroy(self.c)
            sites_destroy(self.c)
            doorbells_destroy(self.c)
            debug_destroy(self.c)
            blocks_destroy(self.c)
            free(self.c.direct)
            free(self.c.cpuid)
            host_unmap(self.c, BLOCK_SIZE)
        free(self.builder)
        ram_destroy(self.ram)

    def set_cpuid(self, entries) -> None:
        """Set the CPUID table: rows of (leaf, subleaf, flags, eax, ebx, ecx, edx)."""
        rows = list(entries)
        cdef CpuidEntry* table = <CpuidEntry*>calloc(len(rows) or 1, sizeof(CpuidEntry))
        if table == NULL:
            raise MemoryError("CPUID table")
        for i, row in enumerate(rows):
            (table[i].leaf, table[i].subleaf, table[i].flags,
             table[i].eax, table[i].ebx, table[i].ecx, table[i].edx) = row
        free(self.c.cpuid)
        self.c.cpuid = table
        self.c.cpuid_count = len(rows)
        if self.c.mmu != NULL:
            mmu_flush_all(self.c)   # the width of physical addresses may have changed

    # --- running

    def run(self) -> int:
        """Run the guest until Python has to act, and return an `Exit`.  Releases the GIL."""
        try:
            return self.run_to_exit()
        finally:
            if self.c.direct != NULL:
                placement_leave(&(<DirectState*>self.c.direct).placement)

    cdef int run_to_exit(self) except -1:
        cdef int kind = self.waiting
        cdef u8* area = self.xsave()
        self.c.n_python_exits += 1
        if kind == EXIT_NONE and self.emulation is not None:
            kind = self.advance(0)
        self.waiting = EXIT_NONE
        prod_attach(self.c)
        while True:
            if kind == EXIT_NONE:
                enter_thread(self.c)
                with nogil:
                    begin_run(self.c)
                    vectors_load(area)
                    kind = run_loop(self.c, self.builder)
                    vectors_save(area)
                    end_run(self.c)
                leave_thread()
            if kind == EXIT_IO_IN or kind == EXIT_IO_OUT:
                if self.port_read is None:
                    return kind
                kind = self.serve(kind == EXIT_IO_IN)
            elif kind == EXIT_DIRECT:
                self.make_direct()
                kind = EXIT_NONE
            elif kind == EXIT_LEARN:
                self.learn()
                kind = EXIT_NONE
            elif kind == EXIT_EMULATE:
                self.emulated += 1
                self.emulation = self.emulator.execute(self.c.insn[:15])
                kind = self.advance(None)
                if kind == EXIT_MMIO_READ or kind == EXIT_MMIO_WRITE:
                    self.emulator.reached_device()
            elif kind == EXIT_MMIO_READ or kind == EXIT_MMIO_WRITE:
                if not self.reach():
                    return kind
                kind = self.answer(self.c.io_data)
            elif kind == EXIT_EOI and self.level_ended is not None:
                self.level_ended(self.c.io_data)
                kind = EXIT_NONE
            elif kind == EXIT_BLOCK:
                (<Blocks*>self.c.blocks).awaited = self.block_begins()
                kind = EXIT_NONE
            elif kind != EXIT_NONE:
                return kind

    def execute_directly(self, make: Callable[[list[int]], DirectProcess], int limit, *,
                         bint always, bint cpuid) -> None:
        """Run code of CPL 3 in processes that `make` makes of the files of RAM, at most `limit`.

        `always`: in every address space at once.  `cpuid`: CPUID needs translation.
        """
        cdef DirectState* state = <DirectState*>calloc(1, sizeof(DirectState))
        if state == NULL:
            raise MemoryError("direct processes")
        state.limit = min(limit, SPACES_MAX)
        state.policy.always = always
        state.cpuid = cpuid
        self.direct_make = make
        self.direct_processes = []
        self.c.direct = state
        mmu_direct_notify(self.c, space_left, space_clean, space_seam_clean, space_replace,
                          space_copy_fits)

    cdef make_direct(self):
        cdef DirectProcess process
        cdef DirectState* state = <DirectState*>self.c.direct
        cdef u32 place = space_place(state)
        cdef int files[8]
        cdef list found = []
        cdef u32 i
        for i in range(self.ram.extent_count):
            if self.ram.extents[i].fd not in found:
                found.append(self.ram.extents[i].fd)
        found.append(mmu_copies(self.c))
        try:
            process = self.direct_make(found)
        except OSError:
            # The host allows no more: those that there are serve in turn.
            state.limit = space_living(state)
            return
        for i in range(len(found)):
            files[i] = found[i]
        space_add(state, place, &process.d, files, len(found))
        self.direct_processes[place:place + 1] = [process]

    cdef int answer(self, u64 value) except -1:
        """Pass a device's answer to the instruction that waits; return an `Exit` or EXIT_NONE."""
        if self.emulation is not None:
            return self.advance(value)
        if self.c.device_waits:
            device_answer(self.c, value)
            return EXIT_NONE
        return self.finish(value)

    cdef bint reach(self) except -1:
        """Let the local APIC or the machine answer a device access; False: neither does."""
        cdef CpuState* c = self.c
        cdef bint reads = c.exit_kind == EXIT_MMIO_READ
        if apic_holds(c, c.mmio_phys):
            # Only aligned accesses of 32 bits are architectural (SDM 3A 10.4.1).
            if reads:
                c.io_data = apic_read(c, c.mmio_phys & 0xFFF)
            elif apic_write(c, c.mmio_phys & 0xFFF, <u32>c.io_data) == EMU_EXIT:
                if self.level_ended is not None:
                    self.level_ended(c.io_data)
        elif not reads and doorbell_rings(c, DOORBELL_MEMORY, c.mmio_phys, c.io_size, c.io_data):
            pass
        elif self.memory_read is None:
            return False
        elif reads:
            c.io_data = self.memory_read(c.mmio_phys, c.io_size)
        else:
            self.memory_write(c.mmio_phys, c.io_size, c.io_data)
        return True

    def attach_memory(self, read: Callable[[int, int], int],
                      write: Callable[[int, int, int], None]) -> None:
        """Let `read(phys, size)` and `write(phys, size, value)` answer accesses to guest physical
        addresses without RAM within `run`.

        Without them, `run` leaves with EXIT_MMIO_READ or EXIT_MMIO_WRITE."""
        self.memory_read = read
        self.memory_write = write

    def attach_level(self, ended: Callable[[int], None]) -> None:
        """Call `ended(vector)` for each level-triggered interrupt that the guest has ended."""
        self.level_ended = ended

    def wait_in_halt(self) -> None:
        """Make HLT wait within `run` for the next interrupt, if interrupts are enabled."""
        self.c.patient = 1

    def attach_ports(self, read: Callable[[int, int], int],
                     write: Callable[[int, int, int], None]) -> None:
        """Let `read(port, size)` and `write(port, size, value)` answer IN and OUT within `run`.

        Without them, `run` leaves with EXIT_IO_IN or EXIT_IO_OUT."""
        self.port_read = read
        self.port_write = write

    cdef int serve(self, bint reads) except -1:
        """Let the machine answer the pending IN or OUT; return an `Exit` or EXIT_NONE."""
        cdef CpuState* c = self.c
        if reads:
            self.port_reads += 1
            return self.finish(self.port_read(c.io_port, c.io_size))
        self.port_writes += 1
        self.port_write(c.io_port, c.io_size, c.io_data)
        return self.finish(0)

    cdef int finish(self, u64 value) noexcept:
        """Finish the instruction that has read `value`, or has written; return an `Exit`."""
        cdef CpuState* c = self.c
        cdef int result
        c.io_data = value
        result = complete(c)
        if result == EMU_FAULT:
            return self.deliver()
        return c.exit_kind if result == EMU_EXIT else EXIT_NONE

    cdef int deliver(self) noexcept:
        """Deliver the exception outside the run loop; return an `Exit` or EXIT_NONE.

        Its chain of exceptions may be endless; a request, from a thread that has the GIL, ends it.
        """
        cdef int kind
        with nogil:
            kind = deliver_exception(self.c)
        return kind

    def emulate(self, u64 value=0, *, bint deliver=True) -> int:
        """Perform the instruction at RIP by the general emulator, and return an `Exit`, for tests.

        EXIT_NONE: it is done, or its exception is delivered, or in `exception` if not `deliver`.
        After EXIT_MMIO_READ or EXIT_MMIO_WRITE the next call continues with the `value` read.
        """
        cdef bint begins = self.emulation is None
        self.holds, self.exception = not deliver, None
        if begins:
            self.emulation = self.emulator.fetch_and_execute()
        return self.advance(None if begins else value)

    cdef int advance(self, answer) except -1:
        """Continue an emulated instruction; return the exit it needs, or EXIT_NONE at its end."""
        cdef CpuState* c = self.c
        emulation = self.emulation
        self.emulation = None
        try:
            access = emulation.send(answer)
        except StopIteration as end:
            holds, self.holds = self.holds, False
            if end.value:
                return EXIT_NONE
            c.arch.db_pending = 0
            debug_forget(c)
            if holds:
                self.exception = c.exc_vector, c.exc_error if c.exc_has_error else None, c.exc_cr2
                return EXIT_NONE
            return self.deliver()
        self.emulation = emulation
        c.mmio_phys, c.io_size, write, c.io_data = access
        c.n_mmio_writes += bool(write)
        c.n_mmio_reads += not write
        c.exit_kind = EXIT_MMIO_WRITE if write else EXIT_MMIO_READ
        return c.exit_kind

    cdef learn(self):
        """Learn a new shape; the shapes of cached code stay known, for single steps and faults."""
        cdef Builder* b = self.builder
        cdef u32 size = min(<u32>15, b.avail - b.learn_at)
        cdef bytes code = PyBytes_FromStringAndSize(<char*>b.code + b.learn_at, size)
        if self.tables.of(b.shapes).learn(code):
            cache_flush(self.c, <Cache*>self.c.cache)

    def exit_info(self):
        cdef CpuState* c = self.c
        return ExitInfo(c.io_port, c.io_size, c.io_count, c.io_data, c.mmio_phys, c.mmio_linear,
                        c.arch.rip)

    def complete(self, u64 value=0) -> None:
        """Finish the instruction that left for a device; `value` is the value read."""
        self.waiting = self.answer(value)

    cdef void ended(self, int result):
        """Keep, for the next `run`, the exit of a delivery outside the run loop."""
        if result == EMU_EXIT:
            self.waiting = self.c.exit_kind

    def interruptible(self) -> bool:
        """Whether the guest would take an interrupt of the machine's controller before its next
        instruction."""
        apic_update(self.c)
        return (self.c.intr & INTR_EXTERNAL != 0 and self.c.arch.iflag != 0
                and not self.c.arch.inhibit
                and not nmi_due(self.c) and self.emulation is None and self.c.pending < PENDING_OP
                and not (self.c.debugger != NULL and debug_holds(self.c)))

    def inject(self, int vector) -> None:
        """Deliver an external interrupt, after EXIT_WINDOW or if the guest is `interruptible`."""
        cdef int result, number = vector
        with nogil:
            result = interrupt(self.c, number)
        self.ended(result)

    # --- for a debugger, while `run` is not active

    def set_breakpoints(self, addresses) -> None:
        """Leave with EXIT_DEBUG before instructions at only these linear addresses, at most 256."""
        debug_set_breaks(self.c, addresses)

    def set_watchpoints(self, watches) -> None:
        """Leave with EXIT_DEBUG after accesses to these (linear, size, kinds), at most 4.

        Kinds are 1 for reads, 2 for writes, 3 for both.  They replace the previous ones.
        """
        debug_set_watches(self.c, watches)

    def debug_go(self, bint step, bint skip) -> None:
        """With `step`, leave after one instruction; with `skip`, ignore a breakpoint at RIP."""
        debug_go(self.c, step, skip)

    def debug_stop(self) -> tuple[int, int]:
        """Return the `DebugReason` of the last EXIT_DEBUG and the bits of the watchpoints hit."""
        return debug_why(self.c)

    def poke_linear(self, u64 address, const unsigned char[::1] data) -> None:
        """Write RAM, even where the guest may not; ValueError where no RAM is mapped."""
        if data.shape[0]:
            debug_poke(self.c, address, &data[0], data.shape[0])

    def watch_blocks(self, u32 last, begins=None, u32 times=0xFFFFFFFF) -> None:
        """Watch the guest block by block; call this before the first run.

        Keep the `last` events (0 or a power of 2) for `events`.  Call `begins` before each block,
        with the registers at its start: the first `times` times, or more often, and also before a
        block if the last call returned True.
        """
        self.block_begins = begins
        blocks_create(self.c, last, times if begins is not None else 0)

    def events(self) -> list:
        """Return the last events as `EventRecord`s, the oldest first."""
        return blocks_events(self.c)

    def emulated_forms(self):
        """Return the instruction forms given to the general emulator, the most frequent first."""
        return self.emulator.forms()

    def counters(self) -> dict[str, int]:
        """Return the engine's counters by name."""
        cdef Cache* k = <Cache*>self.c.cache
        values = {name: (<u64*>(<u8*>self.c + <size_t>at))[0] for name, at in COUNTERS.items()}
        values.update(emulated=self.emulated, port_reads=self.port_reads,
                      port_writes=self.port_writes, code_cache_used=cache_used(k),
                      code_cache_size=k.size, fragments_live=k.live, shapes=self.tables.count,
                      shapes_emptied=self.tables.emptied,
                      kept_emptied=self.kept.emptied if self.kept else 0)
        return values

