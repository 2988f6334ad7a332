"""A virtual processor without translated code: one operation at a time, for tests.

It owns a `CpuState` in a block of its own and guest RAM behind the real virtual MMU, executes one
`Op` with given registers, and shows what came of it.  The x87 and vector state of the guest is
`Probe.fp`, a standard-format XSAVE image of 832 bytes, live in the host's registers only meanwhile.
"""
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from ringlet.core.signals cimport *
from ringlet.core.template cimport PREDICTED_MISSES, prediction
from ringlet.core.state cimport (
    BLOCK_SIZE, CpuState, CpuidEntry, OpInfo, Segment, SEG_NONE, VEC_GP, VEC_PF, VEC_SS,
    get_rflags, set_rflags, i32, i64, u8, u16, u32, u64)
from ringlet.mmu.ram cimport GuestRam, ram_create, ram_destroy
from ringlet.mmu.mmu cimport (
    mmu_create, mmu_destroy, mmu_flush_all, mmu_load_cr3, phys_read, phys_write)
from ringlet.vcpu.processor_state cimport ProcessorState
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.debug.registers cimport instruction_breakpoint
from ringlet.vcpu.debug.watch cimport data_hits
from ringlet.vcpu.system.dispatch cimport complete, emulate
from ringlet.vcpu.loop.exceptions cimport deliver, interrupt, nmi
from ringlet.vcpu.loop.faults cimport handle_fault
from ringlet.core.alarm cimport alarm_attach, alarm_destroy
from ringlet.vcpu.apic.local cimport apic_create, apic_destroy
from ringlet.vcpu.system.msr cimport reset_msrs
from ringlet.vcpu.system.segments cimport set_segment

from ringlet.vcpu.fields import FIELDS

cdef extern from *:
    """
    #ifndef MAP_32BIT
    #define MAP_32BIT 0x40
    #endif
    static inline void probe_xsave(void *area) {
        __asm__ volatile("xsave64 (%0)" :: "r"(area), "a"(7), "d"(0) : "memory");
    }
    static inline void probe_xrstor(const void *area) {
        __asm__ volatile("xrstor64 (%0)" :: "r"(area), "a"(7), "d"(0) : "memory");
    }
    """
    enum: MAP_32BIT
    void probe_xsave(void* area) nogil
    void probe_xrstor(const void* area) nogil

cdef enum:
    AREA = 832

# Registers by number, as the signal's context has them.
cdef int[16] HOST_REGISTERS = [
    HR_RAX, HR_RCX, HR_RDX, HR_RBX, HR_RSP, HR_RBP, HR_RSI, HR_RDI,
    HR_R8, HR_R9, HR_R10, HR_R11, HR_R12, HR_R13, HR_R14, HR_R15]
cdef u64 wide_count = 0


cdef u64 host_operand(const u8* p, u64* regs) noexcept nogil:
    """The address that the host's instruction at `p` accesses, of those that translations hold."""
    cdef u32 rex = 0, mod, index
    cdef u64 address = 0
    while p[0] in (0xF0, 0xF2, 0xF3, 0x3E, 0x66):
        p += 1
    if p[0] == 0xC5:
        p += 3
    elif p[0] == 0xC4:
        rex = ~<u32>p[1] >> 5 & 3
        p += 4
    else:
        if p[0] & 0xF0 == 0x40:
            rex = p[0]
            p += 1
        if p[0] & 0xF0 == 0x50 or p[0] == 0x68 or p[0] == 0x6A or p[0] == 0x9C:
            return regs[HR_RSP] - (0 if p[0] & 0xF8 == 0x58 else 8)
        if 0xA4 <= p[0] <= 0xAF:
            return regs[HR_RSI if p[0] & 0xFE in (0xA4, 0xAC) else HR_RDI]
        if p[0] == 0x0F:
            p += 2 if p[1] in (0x38, 0x3A) else 1
        p += 1
    mod = p[0] >> 6
    if mod == 3 or p[0] & 0xC7 == 5:
        return 0
    if p[0] & 7 == 4:
        p += 1
        index = p[0] >> 3 & 7 | (rex & 2) << 2
        if index != 4:
            address = regs[HOST_REGISTERS[index]] << (p[0] >> 6)
        if mod == 0 and p[0] & 7 == 5:
            return address + <u64><i64>(<i32*>(p + 1))[0]
    address += regs[HOST_REGISTERS[p[0] & 7 | (rex & 1) << 3]]
    if mod == 1:
        address += <u64><i64><signed char>p[1]
    elif mod == 2:
        address += <u64><i64>(<i32*>(p + 1))[0]
    return address


cdef int on_a_wide_host(CpuState* c, HostFault* f) noexcept nogil:
    """Handle a fault as a host with addresses of 57 bits would report it."""
    global wide_count
    cdef u64 address
    if f.trap == VEC_GP or f.trap == VEC_SS:
        address = host_operand(<const u8*>f.regs[HR_RIP], f.regs)
        if address + (<u64>1 << 47) >> 48 and not (address + (<u64>1 << 56)) >> 57:
            f.trap = VEC_PF
            f.error = 4
            f.address = address
    if f.trap == VEC_PF and f.address + (<u64>1 << 47) >> 48:
        wide_count += 1
    return handle_fault(c, f)


def simulate_wide_host() -> None:
    """Report faults as on a host with addresses of 57 bits, from now on and for good.

    To be called before there is a processor.
    """
    install_handlers(on_a_wide_host)


def wide_faults() -> int:
    """How many #PFs there were at addresses that are canonical only with 57 bits."""
    return wide_count


def predicted(ProcessorState processor, u64 linear) -> tuple[int, int]:
    """Return the slot predicted for the instruction at `linear`, and how often it was missed."""
    cdef u64 at = processor.c.block + prediction(linear, 0)
    cdef u64 misses = processor.c.block + prediction(linear, PREDICTED_MISSES << 16)
    return (<u16*>at)[0], (<u16*>misses)[0]


cdef void ignore_unmapped(CpuState* c, u64 linear, u64 pages) noexcept nogil:
    pass


cdef void ignore_written(CpuState* c, u64 phys_page) noexcept nogil:
    pass


cdef void ignore_dropped(CpuState* c, u32 space) noexcept nogil:
    pass


# Any pointer that is not 0 becomes one that a test can recognize.
cdef u64 marked_pointer(CpuState* c, u64 host, int data) noexcept nogil:
    return <u64>0xDA7A00001111 if data else <u64>0xC0DE00002222


cdef class Probe:
    """One vCPU whose instructions are given as `Op`s."""

    cdef CpuState* c
    cdef GuestRam* ram
    cdef OpInfo op
    cdef CpuidEntry entries[128]
    cdef public bytearray fp

    def __cinit__(self, ram_size: int):
        cdef void* block = mmap(NULL, BLOCK_SIZE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0)
        if block == MAP_FAILED:
            raise MemoryError("no room below 2 GiB for the virtual processor's state")
        self.c = <CpuState*>block
        self.c.block = <u64>block
        self.c.arch.dr[6] = <u64>0xFFFF0FF0
        self.c.arch.dr[7] = 0x400
        self.c.arch.xcr0 = 1
        self.c.cpuid = &self.entries[0]
        reset_msrs(self.c)
        self.c.arch.tsc_khz = 1000000
        apic_create(self.c)
        alarm_attach(self.c)
        self.ram = ram_create(ram_size)
        mmu_create(self.c, self.ram, NULL, ignore_unmapped, ignore_written, ignore_dropped)
        update_key(self.c)
        self.fp = bytearray(AREA)
        self.fp[0:2] = b"\x7f\x03"
        self.fp[24:28] = b"\x80\x1f\x00\x00"

    def __dealloc__(self):
        if self.c != NULL:
            alarm_destroy(self.c)
            apic_destroy(self.c)
            mmu_destroy(self.c)
            munmap(self.c, BLOCK_SIZE)
        ram_destroy(self.ram)

    def get(self, name: str) -> int:
        """A register or field; `rflags` is the whole of RFLAGS."""
        cdef u64 value = 0
        if name == "rflags":
            return get_rflags(self.c)
        offset, size = FIELDS[name]
        memcpy(&value, <u8*>self.c + <size_t>offset, size)
        return value

    def set(self, name: str, value: int) -> None:
        """Sets a register or field and recomputes the key."""
        cdef u64 number = value & 0xFFFFFFFFFFFFFFFF
        if name == "rflags":
            set_rflags(self.c, number)
        else:
            offset, size = FIELDS[name]
            memcpy(<u8*>self.c + <size_t>offset, &number, size)
        if name in ("cr0", "cr4", "efer"):
            mmu_flush_all(self.c)
        if name == "cr3":
            mmu_load_cr3(self.c)
        update_key(self.c)

    cdef Segment* segment(self, name):
        if name == "ldtr":
            return &self.c.arch.ldtr
        if name == "tr":
            return &self.c.arch.tr
        return &self.c.arch.seg["es cs ss ds fs gs".split().index(name)]

    def get_segment(self, name: str) -> tuple[int, int, int, int]:
        """Selector, base, limit, access rights."""
        cdef Segment* s = self.segment(name)
        return s.selector, s.base, s.limit, s.ar

    def set_segment(self, name: str, selector: int, base: int, limit: int, ar: int) -> None:
        """Sets a segment register, LDTR or TR without reading a descriptor."""
        cdef Segment* s = self.segment(name)
        if name in ("ldtr", "tr"):
            s.selector, s.base, s.limit, s.ar = selector, base, limit, ar
        else:
            set_segment(self.c, s - &self.c.arch.seg[0], selector, base, limit, ar)

    def get_table(self, name: str) -> tuple[int, int]:
        """Base and limit of gdtr or idtr."""
        if name == "gdtr":
            return self.c.arch.gdtr.base, self.c.arch.gdtr.limit
        return self.c.arch.idtr.base, self.c.arch.idtr.limit

    def set_table(self, name: str, base: int, limit: int) -> None:
        """Sets gdtr or idtr."""
        if name == "gdtr":
            self.c.arch.gdtr.base, self.c.arch.gdtr.limit = base, limit
        else:
            self.c.arch.idtr.base, self.c.arch.idtr.limit = base, limit

    def set_cpuid(self, entries: list[tuple[int, int, int, int, int, int, int]]) -> None:
        """The CPUID table, as rows of leaf, subleaf, flags, EAX, EBX, ECX, EDX."""
        cdef CpuidEntry* e
        cdef int i = 0
        for row in entries:
            e = &self.entries[i]
            i += 1
            e.leaf, e.subleaf, e.flags, e.eax, e.ebx, e.ecx, e.edx = row
        self.c.cpuid_count = len(entries)

    def mark_fpu_pointers(self, on: bool) -> None:
        """Translates x87 pointers to recognizable values, or (off) to none."""
        self.c.fpu_pointer = <void*>marked_pointer if on else NULL

    def read_phys(self, address: int, size: int) -> bytes:
        """Guest RAM by guest physical address."""
        data = bytearray(size)
        cdef u8* view = data
        phys_read(self.c, address, view, size)
        return bytes(data)

    def write_phys(self, address: int, data: bytes) -> None:
        """Writes guest RAM."""
        cdef const u8* view = data
        phys_write(self.c, address, view, len(data))

    def execute(self, op: int, *, size: int = 8, imm: int = 0, reg: int = 0, rm: int = 0xFF,
                code: bytes = b"\x90", flags: int = 0, segment: int = SEG_NONE) -> int:
        """Performs one operation at rip; `code` is the instruction itself.  Returns EMU_*."""
        cdef int result
        cdef u8 host_area[1024 + 64]
        cdef u8 guest_area[1024 + 64]
        cdef u8* host = <u8*>((<u64>&host_area[0] + 63) & ~<u64>63)
        cdef u8* guest = <u8*>((<u64>&guest_area[0] + 63) & ~<u64>63)
        cdef u8* image = self.fp
        cdef const u8* view = code
        cdef int i
        memset(&self.op, 0, sizeof(OpInfo))
        memset(host, 0, 1024)
        memset(guest, 0, 1024)
        memcpy(guest, image, AREA)
        self.op.rip = self.c.arch.rip
        self.op.imm = imm & <u64>0xFFFFFFFFFFFFFFFF
        self.op.op = op
        self.op.size = size
        self.op.length = len(code)
        self.op.reg = reg
        self.op.rm = rm
        self.op.seg = segment
        self.op.flags = flags
        for i in range(min(<int>len(code), 15)):
            self.op.bytes[i] = view[i]
        self.c.op_info = <u64>&self.op
        self.c.exit_kind = 0
        with nogil:
            probe_xsave(host)
            probe_xrstor(guest)
            result = emulate(self.c, &self.op)
            memset(guest, 0, 1024)
            probe_xsave(guest)
            probe_xrstor(host)
        memcpy(image, guest, AREA)
        return result

    def complete(self, data: int = 0) -> int:
        """Ends a pending IN or INS with its value.  Returns EMU_*."""
        self.c.io_data = data
        return complete(self.c)

    def deliver(self) -> int:
        """Delivers the exception in exc_*."""
        return deliver(self.c)

    def raise_exception(self, vector: int, error: int | None = None, cr2: int = 0,
                        dr6: int = 0, soft: bool = False) -> int:
        """Delivers an exception at rip."""
        self.c.exc_vector = vector
        self.c.exc_error = error or 0
        self.c.exc_has_error = error is not None
        self.c.exc_cr2 = cr2
        self.c.exc_dr6 = dr6
        self.c.exc_is_soft = soft
        return deliver(self.c)

    def interrupt(self, vector: int) -> int:
        """Delivers an external interrupt."""
        return interrupt(self.c, vector)

    def nmi(self) -> int:
        """Delivers an NMI."""
        return nmi(self.c)

    def instruction_breakpoint(self) -> int:
        """Checks for an instruction breakpoint at rip."""
        return instruction_breakpoint(self.c)

    def data_hits(self, linear: int, size: int, write: bool) -> int:
        """DR6.B0-B3 of the data breakpoints that an access hits."""
        return data_hits(self.c, linear, size, write)
