"""IN, OUT, INS and OUTS: permission, and the exits to the machine (SDM 1 ch. 19).

A repeated string instruction leaves once for each element.  So interrupts and faults come between
elements, as on a processor.
"""
from ringlet.core.state cimport (
    RAX, RCX, RDX, RSI, RDI, SEG_ES, SEG_DS, SEG_NONE, ACC_WRITE, AR_UNUSABLE, EMU_FAULT,
    EMU_FLOW, EMU_NEXT, EXIT_IO_IN, EXIT_IO_OUT, FLAG_DF, OPF_REP, OPF_REPNE, VEC_GP, raise_err)
from ringlet.vcpu.system.doorbells cimport DOORBELL_PORT, doorbell_rings
from ringlet.vcpu.system.memory cimport check_write, load, read_bytes, store, user_access
from ringlet.vcpu.system.operand cimport opcode_of
from ringlet.vcpu.system.pending cimport PENDING_IN, PENDING_INS, PENDING_NONE, leave
from ringlet.vcpu.system.registers cimport (
    SYS_32_BIT, TSS_IO_MAP_BASE, advance, iopl, virtual_8086, write_gpr)
from ringlet.vcpu.system.segmented cimport address_size, segment_linear
from ringlet.vcpu.debug.watch cimport check_aligned

cdef int check_port(CpuState* c, u32 port, u32 size) noexcept nogil:
    """Check the permission: CPL > IOPL needs clear bits in the TSS's bitmap (SDM 1 19.5.2).

    Virtual-8086 mode needs them at any IOPL (SDM 3A 20.2.8.1), and a 16-bit TSS has none.  There
    is one bit for each byte of the port.  The processor reads two bytes of the bitmap, both of
    which must lie within the TSS's limit.
    """
    cdef u16 base = 0
    cdef u16 bits = 0
    cdef u64 offset
    if c.arch.cpl <= iopl(c) and not virtual_8086(c):
        return 0
    if (c.arch.tr.ar & AR_UNUSABLE or not c.arch.tr.ar & SYS_32_BIT
            or c.arch.tr.limit < TSS_IO_MAP_BASE + 1):
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


cdef u64 masked(CpuState* c, OpInfo* op, u32 reg) noexcept nogil:
    """Return a register of a string instruction, at the instruction's address size."""
    cdef u32 width = address_size(c, op)
    return c.arch.gpr[reg] if width == 8 else c.arch.gpr[reg] & ((<u64>1 << (8 * width)) - 1)


cdef int index_linear(CpuState* c, OpInfo* op, u32 reg, u32 segment, u32 access,
                      u64* linear) noexcept nogil:
    """Give the linear address of a string operand: 0 or EMU_FAULT."""
    return segment_linear(c, segment, masked(c, op, reg), op.size, access, linear)


cdef bint repeated(OpInfo* op) noexcept nogil:
    return op.flags & (OPF_REP | OPF_REPNE) != 0


cdef bint exhausted(CpuState* c, OpInfo* op) noexcept nogil:
    return repeated(op) and masked(c, op, RCX) == 0


cdef void step(CpuState* c, OpInfo* op, u32 reg) noexcept nogil:
    """Step the index and the count past one element, and RIP if the instruction is done."""
    cdef u64 delta = -<u64>op.size if c.arch.rflags & FLAG_DF else <u64>op.size
    cdef u32 width = address_size(c, op)
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
    cdef u64 linear = 0
    if begin(c, op, <u32>c.arch.gpr[RDX] & 0xFFFF):
        return EMU_FAULT
    if exhausted(c, op):
        return EMU_NEXT
    if index_linear(c, op, RDI, SEG_ES, ACC_WRITE, &linear):
        return EMU_FAULT
    if check_aligned(c, linear, op.size) or check_write(c, linear, op.size, user_access(c)):
        return EMU_FAULT
    c.io_data = 0
    return leave(c, op, EXIT_IO_IN, PENDING_INS)


cdef int finish_ins(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 linear = 0
    if index_linear(c, op, RDI, SEG_ES, ACC_WRITE, &linear) or store(
            c, linear, op.size, c.io_data):
        return EMU_FAULT
    step(c, op, RDI)
    return EMU_FLOW


cdef int op_outs(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 segment = SEG_DS if op.seg == SEG_NONE else op.seg
    cdef u64 linear = 0
    if begin(c, op, <u32>c.arch.gpr[RDX] & 0xFFFF):
        return EMU_FAULT
    if exhausted(c, op):
        return EMU_NEXT
    if index_linear(c, op, RSI, segment, 0, &linear) or load(c, linear, op.size, &c.io_data):
        return EMU_FAULT
    step(c, op, RSI)
    if doorbell_rings(c, DOORBELL_PORT, c.io_port, c.io_size, c.io_data):
        return EMU_FLOW
    return leave(c, op, EXIT_IO_OUT, PENDING_NONE)
