"""The memory accesses of an instruction of 16- or 32-bit code, from the registers in `CpuState`.

An offset has the size of an address and wraps around there; a segment's base makes a 32-bit linear
address of it (SDM 3A 3.4, 3B 20.1.1).
"""
from ringlet.core.ops cimport OP_PUSHF
from ringlet.core.state cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *


cdef inline u32 offset_of(u32 offset, u32 size) noexcept nogil:
    return offset & 0xFFFF if size == 2 else offset


cdef inline void add(CpuState* c, Access* out, u32* n, u32 seg, u32 offset, u32 size,
                     u32 kind) noexcept nogil:
    cdef Access* a = out + n[0]
    a.linear = <u32>(c.arch.seg[seg].base + offset)
    a.size = size if size else 1
    a.kind = kind
    a.stack = seg == SEG_SS
    n[0] += 1


cdef inline u32 segment(Insn* i, u32 otherwise) noexcept nogil:
    return otherwise if i.seg == SEG_NONE else i.seg


cdef inline u32 register_at(CpuState* c, u32 reg, u32 size) noexcept nogil:
    return offset_of(<u32>c.arch.gpr[reg], size)


cdef u32 operand_offset(CpuState* c, Insn* i, u32 popped) noexcept nogil:
    """Return the offset of the ModRM operand; `popped` bytes have been popped before."""
    cdef u32 a = <u32>i.disp, r = insn_base(i), number
    if r != NO_REG:
        a += <u32>c.arch.gpr[r] + (popped if r == RSP else 0)
    r = insn_index(i)
    if r != NO_REG:
        a += <u32>c.arch.gpr[r] << (i.sib >> 6 if i.address == 4 else 0)
    if i.shape.kind == SHAPE_BITS:
        number = <u32>c.arch.gpr[insn_reg(i)]
        if i.shape.width == 2:
            a += <u32>((<i32><i16>number >> 4) * 2)
        else:
            a += <u32>((<i32>number >> 5) * 4)
    return offset_of(a, i.address)


cdef u32 narrow_accesses(CpuState* c, Insn* i, Access* out) noexcept nogil:
    cdef u32 n = 0, kind = i.shape.kind, op = i.opcode & 0xFE, size = i.shape.mem_size
    cdef u32 stack = 2 if c.key & KEY_STACK16 else 4, word = i.shape.width, base, popped = 0
    cdef u32 data = segment(i, SEG_DS)
    if kind == SHAPE_CALL or kind == SHAPE_CALL_IND or kind == SHAPE_RET or kind == SHAPE_OP:
        word = i.shape.size
    if kind == SHAPE_STRING:
        if op == 0xA4 or op == 0xA6 or op == 0xAC:
            add(c, out, &n, data, register_at(c, RSI, i.address), size, ACC_READ)
        if op != 0xAC:
            add(c, out, &n, SEG_ES, register_at(c, RDI, i.address), size,
                ACC_WRITE if op == 0xA4 or op == 0xAA else ACC_READ)
        return n
    if kind == SHAPE_LEAVE:
        add(c, out, &n, SEG_SS, register_at(c, RBP, stack), word, ACC_READ)
        return n
    if kind == SHAPE_XLAT:
        add(c, out, &n, data,
            offset_of(<u32>c.arch.gpr[RBX] + (<u32>c.arch.gpr[RAX] & 0xFF), i.address), 1, ACC_READ)
        return n
    if is_moffs(i):
        add(c, out, &n, data, offset_of(<u32>i.imm, i.address), size,
            ACC_WRITE if i.opcode & 2 else ACC_READ)
        return n
    if kind == SHAPE_POP_MEM:
        popped = word
    if i.shape.modrm and i.modrm < 0xC0 and i.shape.mem & (MEM_READ | MEM_WRITE) \
            and kind != SHAPE_ADDRESS and not i.shape.mem & MEM_HINT:
        base = insn_base(i)
        add(c, out, &n, segment(i, SEG_SS if base == RSP or base == RBP else SEG_DS),
            operand_offset(c, i, popped), size,
            ACC_WRITE if i.shape.mem & MEM_WRITE else ACC_READ)
    if (i.shape.stack == STACK_PUSH or kind == SHAPE_CALL or kind == SHAPE_CALL_IND
            or kind == SHAPE_PUSH_MEM or (kind == SHAPE_OP and i.shape.op == OP_PUSHF)):
        add(c, out, &n, SEG_SS, offset_of(<u32>c.arch.gpr[RSP] - word, stack), word, ACC_WRITE)
    elif i.shape.stack == STACK_POP or kind == SHAPE_RET or kind == SHAPE_POP_MEM:
        add(c, out, &n, SEG_SS, register_at(c, RSP, stack), word, ACC_READ)
    return n
