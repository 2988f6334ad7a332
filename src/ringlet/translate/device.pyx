"""MOV to and from memory of devices: they leave translated code for the access.

A plain translation would fault at each access to a device.  Code that accesses devices does so with
MOV, because a device may tell other instructions apart by their accesses.
"""
from ringlet.core.ops cimport OP_DEVICE_READ, OP_DEVICE_WRITE
from ringlet.core.state cimport OPF_HIGH, OPF_SIGN, RAX, SEG_NONE, OpInfo, u8, u32, u64
from ringlet.translate.builder cimport *
from ringlet.translate.flow cimport leave_for
from ringlet.translate.insn cimport (
    ENC_LEGACY, PFX_66, PFX_LOCK, PFX_REX, Insn, insn_reg, is_moffs)
from ringlet.translate.operands cimport add_segment, linear_operand, probe
from ringlet.translate.shape cimport SHAPE_OP, SHAPE_PLAIN


cdef bint device_move(Insn* i, DeviceMove* m) noexcept nogil:
    cdef u32 op = i.opcode
    cdef u8 word = 8 if i.rex & 8 else 2 if i.prefixes & PFX_66 else 4
    if i.address != 8 and i.shape.width:
        word = i.shape.width
    if i.enc != ENC_LEGACY or i.prefixes & PFX_LOCK:
        return False
    m.flags = 0
    m.reg = insn_reg(i)
    m.size = m.width = word if op & 1 else 1
    if is_moffs(i):
        m.reg = RAX
        m.writes = op & 2
        return i.shape.kind == SHAPE_OP
    if i.shape.kind != SHAPE_PLAIN or i.modrm >= 0xC0:
        return False
    if i.map == 0 and 0x88 <= op <= 0x8B:
        m.writes = op < 0x8A
        if m.size == 1 and not i.prefixes & PFX_REX and m.reg >= 4:
            m.reg -= 4
            m.flags = OPF_HIGH
        return True
    if i.map == 0 and (op == 0xC6 or op == 0xC7):
        m.writes = True
        m.reg = NO_REGISTER
        return True
    m.writes = False
    m.width = word
    if i.map == 0 and op == 0x63 and i.rex & 8:                # MOVSXD
        m.size = 4
        m.flags = OPF_SIGN
        return True
    if i.map == 1 and (op & 0xF6) == 0xB6:                     # MOVZX, MOVSX
        m.size = 2 if op & 1 else 1
        m.flags = OPF_SIGN if op & 8 else 0
        return True
    return False


cdef void emit_device(Builder* b, Insn* i) noexcept nogil:
    if b.n_ops >= MAX_OPS:
        b.full = 1
        return
    probe(b)
    if is_moffs(i):
        e8(b, 0x49); e8(b, 0xB9); e64(b, <u64>i.imm)           # mov r9, imm64
        if i.seg != SEG_NONE:
            add_segment(b, i)
    else:
        linear_operand(b, i)
    leave_for_device(b, i)


cdef void leave_for_device(Builder* b, Insn* i) noexcept nogil:
    cdef DeviceMove m
    cdef OpInfo* o = &b.ops[b.n_ops]
    if not device_move(i, &m):
        b.full = 1
        return
    leave_for(b, i, OP_DEVICE_WRITE if m.writes else OP_DEVICE_READ, True)
    o.size = m.size
    o.reg = m.reg
    o.flags |= m.flags
    if not m.writes:
        o.imm = m.width
