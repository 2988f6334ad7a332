"""IN, OUT, INS and OUTS: permission, and the exits to the machine (SDM 1 ch. 19).

A repeated string instruction leaves once for each element.  So interrupts and faults come between
elements, as on a processor.
"""
from ringlet.core.state cimport (
    RAX, RCX, RDX, RSI, RDI, SEG_ES, SEG_DS, SEG_FS, SEG_GS, SEG_NONE, AR_UNUSABLE, EMU_FAULT,
    EMU_FLOW, EMU_NEXT, EXIT_IO_IN, EXIT_IO_OUT, FLAG_DF, KEY_MODE64, OPF_ADDR32, OPF_REP,
    OPF_REPNE, VEC_GP, raise_err)
from ringlet.vcpu.system.doorbells cimport DOORBELL_PORT, doorbell_rings
from ringlet.vcpu.system.memory cimport check_write, load, read_bytes, store, user_access
from ringlet.vcpu.system.operand cimport opcode_of
from ringlet.vcpu.system.pending cimport PENDING_IN, PENDING_INS, PENDING_NONE, leave
from ringlet.vcpu.system.registers cimport advance, iopl, write_gpr
from ringlet.vcpu.debug.watch cimport check_aligned

cdef enum:
    TSS_IO_MAP_BASE = 102


cdef int check_port(CpuState* c, u32 port, u32 size) noexcept nogil:
    """Check the permission: CPL > IOPL needs clear bits in the TSS's bitmap (SDM 1 19.5.2).

    There is one bit for each byte of the port.  The processor reads two bytes of the bitmap, both
    of which must lie within the TSS's limit.
    """
    cdef u16 base = 0
    cdef u16 bits = 0
    cdef u64 offset
    if c.arch.cpl <= iopl(c):
        return 0
    if c.arch.tr.ar & AR_UNUSABLE or c.arch.tr.limit < TSS_IO_MAP_BASE + 1:
        return raise_err(c, VEC_GP, 0)
    if read_bytes(c, c.arch.tr.base + TSS_IO_MAP_BASE, &base, 2, 0):
        return EMU_FAULT
    offset = <u64>base + (port >> 3)
    if offset + 1 > c.arch.tr.limit:
        return raise_err(c, VEC_GP, 0)
    if read_bytes(c, c.arch.tr.base + offset, &bits, 2, 0):
        return EMU_FAULT
    if bits >> (port & 7) & ((1 << size) - 1):
        return raise_err(c, VEC_GP, 0)
    return 0


cdef u32 port_of(CpuState* c, OpInfo* op) noexcept nogil:
    """Return the port: DX, or the immediate of opcodes E4h-E7h."""
    if opcode_of(op) & 0xFC == 0xE4:
        return <u32>op.imm & 0xFF
    return <u32>c.arch.gpr[RDX] & 0xFFFF


cdef int begin(CpuState* c, OpInfo* op, u32 port) noexcept nogil:
    if check_port(c, port, op.size):
        return EMU_FAULT
    c.io_port = port
    c.io_size = op.size
    c.io_count = 1
    return 0


cdef int op_in(CpuState* c, OpInfo* op) noexcept nogil:
    if begin(c, op, port_of(c, op)):
        return EMU_FAULT
    c.io_data = 0
    return leave(c, op, EXIT_IO_IN, PENDING_IN)


cdef int finish_in(CpuState* c, OpInfo* op) noexcept nogil:
    write_gpr(c, RAX, c.io_data, op.size)
    advance(c, op)
    return EMU_NEXT


cdef int op_out(CpuState* c, OpInfo* op) noexcept nogil:
    if begin(c, op, port_of(c, op)):
        return EMU_FAULT
    c.io_data = c.arch.gpr[RAX] & ((<u64>1 << (8 * op.size)) - 1)
    if doorbell_rings(c, DOORBELL_PORT, c.io_port, c.io_size, c.io_data):
        return EMU_NEXT
    advance(c, op)
    return leave(c, op, EXIT_IO_OUT, PENDING_NONE)


cdef u64 index_linear(CpuState* c, OpInfo* op, u32 reg, u32 segment) noexcept nogil:
    """Return the linear address of a string operand; in 64-bit mode only FS and GS have a base."""
    cdef u64 offset = c.arch.gpr[reg]
    if not c.key & KEY_MODE64:
        offset &= 0xFFFF if op.flags & OPF_ADDR32 else <u64>0xFFFFFFFF
        return (c.arch.seg[segment].base + offset) & <u64>0xFFFFFFFF
    if op.flags & OPF_ADDR32:
        offset &= <u64>0xFFFFFFFF
    if segment == SEG_FS or segment == SEG_GS:
        offset += c.arch.seg[segment].base
    return offset


cdef bint repeated(OpInfo* op) noexcept nogil:
    return op.flags & (OPF_REP | OPF_REPNE) != 0


cdef bint narrow(CpuState* c, OpInfo* op) noexcept nogil:
    """Whether addresses have 32 bits: the registers are ESI, EDI, ECX, written zero-extended."""
    return op.flags & OPF_ADDR32 != 0 or not c.key & KEY_MODE64


cdef bint exhausted(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 count = c.arch.gpr[RCX]
    if not repeated(op):
        return False
    return count & <u64>0xFFFFFFFF == 0 if narrow(c, op) else count == 0


cdef void step(CpuState* c, OpInfo* op, u32 reg) noexcept nogil:
    """Step the index and the count past one element, and RIP if the instruction is done."""
    cdef u64 delta = -<u64>op.size if c.arch.rflags & FLAG_DF else <u64>op.size
    cdef u32 width = 4 if narrow(c, op) else 8
    write_gpr(c, reg, c.arch.gpr[reg] + delta, width)
    if repeated(op):
        write_gpr(c, RCX, c.arch.gpr[RCX] - 1, width)
        if not exhausted(c, op):
            return
    advance(c, op)


cdef int op_ins(CpuState* c, OpInfo* op) noexcept nogil:
    """INS: checks the memory operand before it asks the device.

    The permission is checked even if RCX is 0, as processors do.
    """
    cdef u64 linear
    if begin(c, op, <u32>c.arch.gpr[RDX] & 0xFFFF):
        return EMU_FAULT
    if exhausted(c, op):
        return EMU_NEXT
    linear = index_linear(c, op, RDI, SEG_ES)
    if check_aligned(c, linear, op.size) or check_write(c, linear, op.size, user_access(c)):
        return EMU_FAULT
    c.io_data = 0
    return leave(c, op, EXIT_IO_IN, PENDING_INS)


cdef int finish_ins(CpuState* c, OpInfo* op) noexcept nogil:
    if store(c, index_linear(c, op, RDI, SEG_ES), op.size, c.io_data):
        return EMU_FAULT
    step(c, op, RDI)
    return EMU_FLOW


cdef int op_outs(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 segment = SEG_DS if op.seg == SEG_NONE else op.seg
    if begin(c, op, <u32>c.arch.gpr[RDX] & 0xFFFF):
        return EMU_FAULT
    if exhausted(c, op):
        return EMU_NEXT
    if load(c, index_linear(c, op, RSI, segment), op.size, &c.io_data):
        return EMU_FAULT
    step(c, op, RSI)
    if doorbell_rings(c, DOORBELL_PORT, c.io_port, c.io_size, c.io_data):
        return EMU_FLOW
    return leave(c, op, EXIT_IO_OUT, PENDING_NONE)
