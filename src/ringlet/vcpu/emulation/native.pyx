"""Single instructions on the host's processor, for the general emulator.

An instruction that translated code cannot perform (its operand is a device register, or straddles
the end of a slot) still runs on the host, with all of the guest's registers, flags and vector state
loaded, but with a memory operand that is an absolute address in a bounce buffer below 2 GiB.  Here
are the page of code such instructions stand in, the way in and out, and what the emulator needs of
the virtual processor: its registers, and its memory by operands.
"""
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize, PyBytes_Size
from libc.string cimport memcpy

from ringlet.cache.codecache cimport Cache
from ringlet.cache.invalidation cimport cache_drop_linear
from ringlet.core.signals cimport enter_thread, leave_thread
from ringlet.core.state cimport *
from ringlet.mmu.mmu cimport mmu_translate, phys_read, phys_write
from ringlet.vcpu.emulation.pages cimport (
    ringlet_native_close, ringlet_native_map, ringlet_native_unmap)
from ringlet.vcpu.debug.stops cimport debug_seen
from ringlet.vcpu.debug.registers cimport single_step
from ringlet.vcpu.loop.events cimport event_due
from ringlet.vcpu.system.registers cimport CR4_OSXMMEXCPT, paragraphs
from ringlet.vcpu.system.segmented cimport segment_linear
from ringlet.vcpu.debug.watch cimport check_aligned, watch
from ringlet.vcpu.system.x87 cimport (
    FPU_DATA, FPU_INSTRUCTION, X87_NONE, load_pointer, x87_opcode)

from ringlet.errors import InternalError
from ringlet.vcpu.emulation.stub import stub

# What resolving an operand came to, as Python sees it.
OK = MEM_OK
FAULT = MEM_FAULT
MMIO = MEM_MMIO

FIRST = BOUNCE_FIRST
SECOND = BOUNCE_SECOND


cdef class Native:
    """The host's processor for one instruction at a time, on behalf of one virtual processor."""

    def __dealloc__(self):
        if self.c != NULL:
            ringlet_native_unmap(self.write, NATIVE_SIZE)
            ringlet_native_unmap(<void*>self.enter, NATIVE_SIZE)
            ringlet_native_close(self.fd)

    cdef u8* image(self) noexcept:
        return <u8*>((<u64>&self.c.xsave[0] + 63) & ~<u64>63)

    # --- code

    @property
    def bounce(self) -> int:
        """Host address of the bounce area, below 2 GiB."""
        return self.c.block + BLOCK_BOUNCE

    @property
    def room(self) -> int:
        """Bytes left for instructions."""
        return NATIVE_SIZE - self.used

    def place(self, bytes code) -> int:
        """Put an instruction's bytes in place; where `execute` finds them."""
        cdef u32 size = <u32>PyBytes_Size(code)
        cdef u32 at = self.used
        cdef u64 entry = self.c.native + at
        if at + size + 5 > NATIVE_SIZE:
            raise InternalError("no room for an emulated instruction")
        memcpy(self.write + at, PyBytes_AsString(code), size)
        self.write[at + size] = 0xE9
        (<u32*>(self.write + at + size + 1))[0] = <u32>(self.c.native_leave - (entry + size + 5))
        self.used = (at + size + 5 + 15) & ~<u32>15
        return entry

    def forget(self) -> None:
        """Make room: every place given so far is void."""
        self.used = self.first

    def execute(self, u64 entry, int reg0=-1, u64 value0=0, int reg1=-1, u64 value1=0) -> bool:
        """Run the instruction at `entry` with the guest's state, but for up to two registers.

        True: `commit` takes what it did to the general registers and flags; vector state is the
        guest's already.  False: it faulted, and the guest's exception is set.
        """
        cdef CpuState* c = self.c
        cdef u8* bounce = <u8*>(c.block + BLOCK_BOUNCE)
        cdef u64* regs = <u64*>(bounce + BOUNCE_IN)
        cdef u64* image
        cdef u32 fop
        memcpy(regs, c.arch.gpr, 128)
        if reg0 >= 0:
            regs[reg0] = value0
        if reg1 >= 0:
            regs[reg1] = value1
        (<u64*>(bounce + BOUNCE_FLAGS_IN))[0] = c.arch.rflags & FLAGS_HOST | FLAG_IF | 2
        (<u64*>(bounce + BOUNCE_ENTRY))[0] = entry
        c.native_vector = NATIVE_DONE
        enter_thread(c)
        (<void (*)() noexcept nogil>self.enter)()
        leave_thread()
        # The last x87 instruction and its operand are the guest's, not ours.
        image = <u64*>self.image()
        if image[IMAGE_FIP >> 3] - c.native < NATIVE_SIZE:
            fop = x87_opcode(c.insn)
            if fop != X87_NONE and (<u16*>image)[IMAGE_FOP >> 1] == x87_opcode(<u8*>image[1]):
                (<u16*>image)[IMAGE_FOP >> 1] = <u16>fop
            image[IMAGE_FIP >> 3] = load_pointer(c, c.arch.rip, FPU_INSTRUCTION)
        if image[IMAGE_FDP >> 3] - <u64>bounce < BOUNCE_SIZE:
            image[IMAGE_FDP >> 3] = load_pointer(c, self.data, FPU_DATA)
        if c.native_vector == NATIVE_DONE:
            return True
        self.raised()
        return False

    def refuses(self, u64 entry) -> bool:
        """Whether the instruction at `entry` raises #GP; what else it does is undone."""
        cdef bytes image = self.image()[:IMAGE_SIZE]
        cdef u32 vector = self.c.exc_vector, error = self.c.exc_error, has = self.c.exc_has_error
        self.execute(entry)
        memcpy(self.image(), PyBytes_AsString(image), IMAGE_SIZE)
        self.c.exc_vector = vector
        self.c.exc_error = error
        self.c.exc_has_error = has
        return self.c.native_vector == VEC_GP

    cdef int raised(self) except -1:
        cdef u64 vector = self.c.native_vector
        if vector == VEC_XM and not self.c.arch.cr4 & CR4_OSXMMEXCPT:
            vector = VEC_UD
        if vector == VEC_DE or vector == VEC_UD or vector == VEC_MF or vector == VEC_XM:
            raise_exc(self.c, <u32>vector)
        elif vector == VEC_GP or vector == VEC_SS or vector == VEC_AC:
            raise_err(self.c, <u32>vector, 0)
        else:
            raise InternalError("an emulated instruction raised what it cannot",
                                {"vector": vector, "rip": self.c.arch.rip})
        return 0

    def commit(self, u32 length, int keep=-1) -> None:
        """Take the registers (but number `keep`) and flags of `execute`, and step RIP."""
        cdef CpuState* c = self.c
        cdef u8* bounce = <u8*>(c.block + BLOCK_BOUNCE)
        cdef u64* regs = <u64*>(bounce + BOUNCE_OUT)
        if keep >= 0:
            regs[keep] = c.arch.gpr[keep]
        memcpy(c.arch.gpr, regs, 128)
        self.commit_flags()
        self.skip(length)

    cpdef void skip(self, u32 length) noexcept:
        """Step RIP past the instruction."""
        self.c.arch.rip += length
        if not self.wide():
            self.c.arch.rip &= <u64>0xFFFFFFFF

    def jump(self, u64 target) -> bool:
        """Set RIP, or raise #GP(0) for a target that is not canonical or beyond CS's limit."""
        if not self.reaches(target):
            return False
        self.c.arch.rip = target
        return True

    cpdef bint reaches(self, u64 target) noexcept:
        """Whether a near transfer may go to `target`; otherwise #GP(0) is set."""
        if is_canonical(target) if self.wide() else target <= self.c.arch.seg[SEG_CS].limit:
            return True
        raise_err(self.c, VEC_GP, 0)
        return False

    def commit_flags(self) -> None:
        """Take only the arithmetic flags of `execute`."""
        cdef u64 flags = (<u64*>(self.c.block + BLOCK_BOUNCE + BOUNCE_FLAGS_OUT))[0]
        self.c.arch.rflags = self.c.arch.rflags & ~<u64>FLAGS_HOST | flags & FLAGS_HOST

    def set_flags(self, u64 value) -> None:
        """Set the arithmetic flags to those of an RFLAGS value."""
        self.c.arch.rflags = self.c.arch.rflags & ~<u64>FLAGS_HOST | value & FLAGS_HOST

    # --- registers

    @property
    def conduct(self) -> int:
        """`ringlet.arch.vendors.Conduct` of the processor that this one behaves as."""
        return self.c.conduct

    def gpr(self, int reg) -> int:
        """A general register, all of it."""
        return self.c.arch.gpr[reg]

    def set_gpr(self, int reg, u64 value, u32 size) -> None:
        """Write a general register as an instruction of that operand size does."""
        if size == 8:
            self.c.arch.gpr[reg] = value
        elif size == 4:
            self.c.arch.gpr[reg] = <u32>value
        elif size == 2:
            self.c.arch.gpr[reg] = self.c.arch.gpr[reg] & ~<u64>0xFFFF | <u16>value
        else:
            self.c.arch.gpr[reg] = self.c.arch.gpr[reg] & ~<u64>0xFF | <u8>value

    @property
    def rip(self) -> int:
        return self.c.arch.rip

    @rip.setter
    def rip(self, u64 value):
        self.c.arch.rip = value

    @property
    def rflags(self) -> int:
        """RFLAGS as the guest would see it."""
        return get_rflags(self.c)

    @property
    def mode(self) -> int:
        """What an instruction depends on besides its bytes, as one number: the size of code, the
        size of the stack pointer, and whether this is real or virtual-8086 mode."""
        return self.bits | self.stack_width << 8 | self.real << 16

    @property
    def bits(self) -> int:
        """16, 32 or 64: the kind of code."""
        return 64 if self.wide() else 32 if self.c.key & KEY_MODE32 else 16

    @property
    def stack_width(self) -> int:
        """Bytes of the stack pointer: 8, or as SS.B says (SDM 1 6.2.3)."""
        return 8 if self.wide() else 4 if self.c.arch.seg[SEG_SS].ar & AR_DB else 2

    @property
    def real(self) -> bool:
        """Whether the processor is in real or virtual-8086 mode."""
        return paragraphs(self.c)

    cdef bint wide(self) noexcept:
        return (self.c.key & KEY_MODE64) != 0

    def done(self, bint whole) -> None:
        """An instruction was completed, or but some of its repetitions: RF (SDM 3B 17.3.1.1)."""
        self.c.arch.rflags = self.c.arch.rflags & ~<u64>FLAG_RF | (0 if whole else FLAG_RF)

    def vector(self, int reg) -> bytes:
        """The 32 bytes of a YMM register."""
        cdef u8* image = self.image()
        cdef u64 present = (<u64*>(image + IMAGE_BV))[0]
        low = image[IMAGE_XMM + 16 * reg:IMAGE_XMM + 16 * reg + 16] if present & 2 else bytes(16)
        high = image[IMAGE_YMM + 16 * reg:IMAGE_YMM + 16 * reg + 16] if present & 4 else bytes(16)
        return low + high

    def mmx(self, int reg) -> bytes:
        """The 8 bytes of an MMX register; the image has the x87 stack's order (SDM 1 10.5.1)."""
        cdef u8* image = self.image()
        cdef u32 at = IMAGE_MMX + 16 * (reg - (image[3] >> 3 & 7) & 7)
        if not (<u64*>(image + IMAGE_BV))[0] & 1:
            return bytes(8)
        return image[at:at + 8]

    @property
    def fpu_refused(self) -> bool:
        """An x87 exception is pending with which a store stores nothing: any but precision.

        (SDM 1 8.5.1-8.5.6.)
        """
        cdef u8* image = self.image()
        return bool((<u64*>(image + IMAGE_BV))[0] & 1 and image[2] & ~image[0] & 0x1F)

    # --- exceptions and events

    def raise_exception(self, u32 vector) -> bool:
        """Set an exception without error code; False, for the caller to return."""
        raise_exc(self.c, vector)
        return False

    def raise_with_error(self, u32 vector, u32 error) -> bool:
        """Set an exception with its error code; False, for the caller to return."""
        raise_err(self.c, vector, error)
        return False

    def step_trap(self) -> None:
        """Set the single-step trap of an instruction that is done (SDM 3B 17.3.1.4)."""
        single_step(self.c)

    @property
    def wanted(self) -> bool:
        """Something waits for an instruction boundary."""
        cdef CpuState* c = self.c
        return c.attention != 0 or c.arch.db_pending != 0 or event_due(c) or debug_seen(c)

    # --- memory

    def fetch(self, u64 rip) -> bytes | None:
        """Up to 15 bytes of code from `rip` on, not beyond its page; None: #PF is set."""
        cdef u64 linear = code_linear(self.c, rip)
        cdef u64 phys = 0
        cdef u32 size = 4096 - (linear & 0xFFF)
        cdef u32 user = ACC_USER if self.c.arch.cpl == 3 else 0
        cdef int r
        if size > 15:
            size = 15
        r = mmu_translate(self.c, linear, ACC_FETCH | user, &phys)
        if r == MEM_FAULT:
            return None
        code = PyBytes_FromStringAndSize(NULL, size)
        if r != MEM_OK or phys_read(self.c, phys, PyBytes_AsString(code), size) != MEM_OK:
            raise ValueError(f"no RAM at linear {linear:#x}")
        return code

    def leave_to_processor(self) -> None:
        """Let the processor perform the instruction at RIP, which is sensitive, by itself."""
        cache_drop_linear(self.c, <Cache*>self.c.cache,
                          code_linear(self.c, self.c.arch.rip), 1)
        self.c.alone = 1

    cdef u64 effective(self, Operand o, u64 offset) noexcept:
        cdef u64 a = o.displacement + offset
        if o.base >= 0:
            a += self.c.arch.gpr[o.base]
        if o.index >= 0:
            a += self.c.arch.gpr[o.index] * o.scale
        if o.rip_relative:
            a += self.c.arch.rip
        return a & o.mask

    cdef u64 linear_address(self, Operand o, u64 offset) noexcept:
        cdef u64 a = self.effective(o, offset)
        if not self.wide():
            return <u32>(a + self.c.arch.seg[o.segment].base)
        if o.segment == SEG_FS or o.segment == SEG_GS:
            a += self.c.arch.seg[o.segment].base
        return a

    def address(self, Operand o) -> int:
        """The effective address of an operand, without its segment's base."""
        return self.effective(o, 0)

    def linear(self, Operand o, offset) -> int:
        """The linear address `offset` bytes (of either sign) from where an operand begins."""
        return self.linear_address(o, <u64>(offset & 0xFFFFFFFFFFFFFFFF))

    def resolve(self, Operand o) -> int:
        """Find an operand in memory with the rights of the CPL; OK, FAULT (exc_* set) or MMIO.

        A write is checked here, and can no longer fail.
        """
        return self.resolve_span(o, 0, o.size, o.writes)

    def resolve_at(self, Operand o, offset, u32 size, bint write) -> int:
        """`resolve` of `size` bytes that begin `offset` bytes (of either sign) into an operand."""
        return self.resolve_span(o, <u64>(offset & 0xFFFFFFFFFFFFFFFF), size, write)

    cdef int resolve_span(self, Operand o, u64 offset, u32 size, bint write) noexcept:
        cdef CpuState* c = self.c
        cdef u32 access = ACC_WRITE if write else ACC_READ
        cdef u64 linear = self.linear_address(o, offset)
        cdef u64 second = linear + size - 1
        cdef u32 room = 4096 - (linear & 0xFFF)
        cdef int r
        self.data = linear
        if linear & o.align:
            raise_err(c, VEC_GP, 0)
            return MEM_FAULT
        if not self.wide():
            # Here the x87 unit's data pointer is an offset, and linear addresses wrap at 4 GiB.
            self.data = self.effective(o, offset)
            if segment_linear(c, o.segment, self.data, size,
                              ACC_FETCH if o.flushes else access, &linear):
                return MEM_FAULT
            second = <u32>second
        if not is_canonical(linear) or not is_canonical(second):
            raise_err(c, VEC_SS if o.stack else VEC_GP, 0)
            return MEM_FAULT
        if c.arch.cpl == 3:
            access |= ACC_USER
        o.linear = linear
        o.length[0] = size if size < room else room
        o.length[1] = size - o.length[0]
        o.mmio = 0
        r = mmu_translate(c, linear, access, &o.phys[0])
        if r == MEM_FAULT:
            return r
        if r == MEM_MMIO:
            o.mmio = 1
        if o.length[1]:
            r = mmu_translate(c, second & ~<u64>0xFFF, access, &o.phys[1])
            if r == MEM_FAULT:
                return r
            if r == MEM_MMIO:
                o.mmio |= 2
        if check_aligned(c, linear, size):
            return MEM_FAULT
        watch(c, linear, size, write)
        return MEM_MMIO if o.mmio else MEM_OK

    def load(self, Operand o, u32 at) -> None:
        """Copy what of a resolved operand is RAM to `at` in the bounce area."""
        cdef u8* p = <u8*>(self.c.block + BLOCK_BOUNCE + at)
        if not o.mmio & 1:
            phys_read(self.c, o.phys[0], p, o.length[0])
        if o.length[1] and not o.mmio & 2:
            phys_read(self.c, o.phys[1], p + o.length[0], o.length[1])

    def store(self, Operand o, u32 at) -> None:
        """Copy from the bounce area to what of a resolved operand is RAM."""
        cdef u8* p = <u8*>(self.c.block + BLOCK_BOUNCE + at)
        if not o.mmio & 1:
            phys_write(self.c, o.phys[0], p, o.length[0])
        if o.length[1] and not o.mmio & 2:
            phys_write(self.c, o.phys[1], p + o.length[0], o.length[1])

    def get(self, u32 at, u32 size) -> bytes:
        """Bytes of the bounce area."""
        return (<u8*>(self.c.block + BLOCK_BOUNCE + at))[:size]

    def put(self, u32 at, bytes data) -> None:
        """Write bytes to the bounce area, at most a page."""
        memcpy(<u8*>(self.c.block + BLOCK_BOUNCE + at), PyBytes_AsString(data),
               min(PyBytes_Size(data), 4096))

    def peek(self, u32 at, u32 size) -> int:
        """An unsigned integer of 1 to 8 bytes in the bounce area."""
        cdef u64 value = 0
        memcpy(&value, <u8*>(self.c.block + BLOCK_BOUNCE + at), size if size < 8 else 8)
        return value

    def poke(self, u32 at, u64 value, u32 size) -> None:
        """Write an integer of 1 to 8 bytes to the bounce area."""
        memcpy(<u8*>(self.c.block + BLOCK_BOUNCE + at), &value, size if size < 8 else 8)


cdef Native native_create(CpuState* c):
    """The emulator's hold on the virtual processor `c`, whose block is allocated."""
    cdef Native n = Native.__new__(Native)
    cdef void* write = NULL
    cdef void* run = NULL
    if ringlet_native_map(NATIVE_SIZE, &write, &run, &n.fd):
        raise MemoryError("no memory below 2 GiB for the code of emulated instructions")
    n.c = c
    n.write = <u8*>write
    c.native = <u64>run
    bounce = n.bounce
    code, leave = stub(
        host_rsp=c.block + <size_t>&(<CpuState*>NULL).host_rsp, image=<u64>n.image(),
        registers_in=bounce + BOUNCE_IN, registers_out=bounce + BOUNCE_OUT,
        flags_in=bounce + BOUNCE_FLAGS_IN, flags_out=bounce + BOUNCE_FLAGS_OUT,
        entry=bounce + BOUNCE_ENTRY, mxcsr=bounce + BOUNCE_MXCSR)
    memcpy(n.write, PyBytes_AsString(code), len(code))
    n.enter = c.native
    n.first = n.used = (len(code) + 63) & ~63
    c.native_leave = c.native + <u64>leave
    (<u32*>(c.block + BLOCK_BOUNCE + BOUNCE_MXCSR))[0] = 0x1F80
    return n
