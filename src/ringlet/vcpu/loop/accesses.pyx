"""The memory accesses of an instruction of 64-bit code, from the registers in `CpuState.arch.gpr`.

This code runs in the signal handler: no allocation, no lock, no Python.
"""
from ringlet.core.ops cimport OP_PUSHF
from ringlet.core.state cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *


cdef inline u64 offset_of(Insn* i, u64 offset) noexcept nogil:
    return <u32>offset if i.address == 4 else offset


cdef u64 linear_at(CpuState* c, Insn* i, u64 offset) noexcept nogil:
    """Return the linear address of an offset in the segment of a prefix, if that has a base."""
    offset = offset_of(i, offset)
    return offset + c.arch.seg[i.seg].base if i.seg == SEG_FS or i.seg == SEG_GS else offset


cdef inline u32 operand_bytes(Insn* i, u32 wide) noexcept nogil:
    """Return the operand size; `wide`: the one without a prefix."""
    return 2 if i.prefixes & PFX_66 else wide


cdef bint by_stack_pointer(Insn* i) noexcept nogil:
    """Whether the base is RSP or RBP, whose segment is SS."""
    cdef u8 base = insn_base(i)
    return base == RSP or base == RBP


cdef u64 operand_address(CpuState* c, Insn* i, u64 rip) noexcept nogil:
    """Return the linear address of the ModRM memory operand, from the registers in c.arch.gpr."""
    cdef u64 a = <u64><i64>i.disp
    cdef u32 r
    cdef i64 offset
    if i.rip_relative:
        a += rip + i.length
    else:
        r = insn_base(i)
        if r != NO_REG:
            a += c.arch.gpr[r]
        r = insn_index(i)
        if r != NO_REG:
            a += c.arch.gpr[r] << (i.sib >> 6)
    if i.shape.kind == SHAPE_BITS:
        offset = <i64>c.arch.gpr[insn_reg(i)]
        if i.rex & 8:
            a += <u64>((offset >> 6) * 8)
        elif operand_bytes(i, 4) == 2:
            a += <u64>((<i64><short>offset >> 4) * 2)
        else:
            a += <u64>((<i64><i32>offset >> 5) * 4)
    return linear_at(c, i, a)


cdef inline void add(Access* out, u32* n, u64 linear, u32 size, u32 kind,
                     bint stack) noexcept nogil:
    cdef Access* a = out + n[0]
    a.linear = linear
    a.size = size if size else 1
    a.kind = kind
    a.stack = stack
    n[0] += 1


cdef u32 string_accesses(CpuState* c, Insn* i, Access* out) noexcept nogil:
    """List the accesses of MOVS, CMPS, STOS, LODS or SCAS.

    The order decides which fault is reported.  CMPS reads [rDI] before [rSI], except REPE CMPSB on
    some processors.
    """
    cdef u32 n = 0
    cdef u32 op = i.opcode & 0xFE
    cdef u32 size = i.shape.mem_size
    cdef u64 source = linear_at(c, i, c.arch.gpr[RSI])
    # A prefix does not change the segment of the target.
    cdef u64 target = offset_of(i, c.arch.gpr[RDI])
    if op == 0xA6 and not (i.opcode == 0xA6 and i.prefixes & PFX_REP
                           and not c.conduct & CONDUCT_REPE_CMPSB_TARGET_FIRST):
        add(out, &n, target, size, ACC_READ, False)
        add(out, &n, source, size, ACC_READ, False)
        return n
    if op == 0xA4 or op == 0xA6 or op == 0xAC:
        add(out, &n, source, size, ACC_READ, False)
    if op != 0xAC:
        add(out, &n, target, size, ACC_WRITE if op == 0xA4 or op == 0xAA else ACC_READ, False)
    return n


cdef u32 accesses(CpuState* c, Insn* i, u64 rip, Access* out) noexcept nogil:
    cdef u32 n = 0
    cdef u32 kind = i.shape.kind
    cdef u32 size = i.shape.mem_size
    cdef u32 word = operand_bytes(i, 8)
    if kind == SHAPE_STRING:
        return string_accesses(c, i, out)
    if kind == SHAPE_LEAVE:
        add(out, &n, c.arch.gpr[RBP], word, ACC_READ, True)
        return n
    if kind == SHAPE_XLAT:
        add(out, &n, linear_at(c, i, c.arch.gpr[RBX] + (c.arch.gpr[RAX] & 0xFF)), 1,
            ACC_READ, False)
        return n
    if is_moffs(i):
        add(out, &n, linear_at(c, i, <u64>i.imm), size,
            ACC_WRITE if i.opcode & 2 else ACC_READ, False)
        return n
    if i.modrm < 0xC0 and i.shape.mem & (MEM_READ | MEM_WRITE) \
            and kind != SHAPE_ADDRESS and not i.shape.mem & MEM_HINT:
        add(out, &n, operand_address(c, i, rip), size,
            ACC_WRITE if i.shape.mem & MEM_WRITE else ACC_READ,
            i.seg == SEG_NONE and not i.rip_relative and by_stack_pointer(i))
    if (i.shape.stack == STACK_PUSH or kind == SHAPE_CALL or kind == SHAPE_CALL_IND
            or kind == SHAPE_PUSH_MEM or (kind == SHAPE_OP and i.shape.op == OP_PUSHF)):
        add(out, &n, c.arch.gpr[RSP] - word, word, ACC_WRITE, True)
    elif i.shape.stack == STACK_POP or kind == SHAPE_RET or kind == SHAPE_POP_MEM:
        add(out, &n, c.arch.gpr[RSP], word, ACC_READ, True)
    return n
