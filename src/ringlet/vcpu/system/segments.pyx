"""Segment registers: loads with their checks, pushes and pops, and the FS and GS bases.

In real and virtual-8086 mode a load sets the base and checks nothing (SDM 3A 20.1.1).  In 64-bit
mode, accesses ignore all limits and the bases of ES, CS, SS and DS, but loads make the
same checks as in other modes (SDM 3A 3.4.4, 5.6).
"""
from ringlet.core.state cimport (
    RSP, SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, AR_S, AR_P, AR_UNUSABLE, EMU_FAULT,
    EMU_NEXT,
    KEY_MODE64, VEC_GP, VEC_NP, VEC_SS, VEC_UD, is_canonical, raise_err, raise_exc)
from ringlet.vcpu.system.control cimport update_key
from ringlet.vcpu.system.descriptors cimport (
    is_null, load_cache, load_null, load_paragraph, mark_accessed, require, selector_error)
from ringlet.vcpu.loop.events cimport SHADOW_MOV_SS
from ringlet.vcpu.system.memory cimport load, pop_value, push_values, store
from ringlet.vcpu.system.operand cimport opcode_of
from ringlet.vcpu.system.registers cimport (
    AR_CODE, AR_CONFORMING, AR_READABLE, AR_WRITABLE, CR4_FSGSBASE, dpl_of, mode64,
    paragraphs, real_mode, virtual_8086, write_gpr)


cdef int check_stack_segment(CpuState* c, u32 selector, u32 cpl, Descriptor* d) noexcept nogil:
    """Read and check the descriptor for SS at privilege `cpl`; the selector is not null."""
    if require(c, selector, d):
        return EMU_FAULT
    if (selector & 3 != cpl or not d.ar & AR_S or d.ar & AR_CODE or not d.ar & AR_WRITABLE or
            dpl_of(d.ar) != cpl):
        return raise_err(c, VEC_GP, selector_error(selector))
    if not d.ar & AR_P:
        return raise_err(c, VEC_SS, selector_error(selector))
    return 0


cdef int load_stack_segment(CpuState* c, u32 selector) noexcept nogil:
    cdef Descriptor d
    if is_null(selector):
        # Only 64-bit code of an inner ring may run with a null SS.
        if not mode64(c) or c.arch.cpl == 3 or selector & 3 != c.arch.cpl:
            return raise_err(c, VEC_GP, 0)
        load_null(&c.arch.seg[SEG_SS], selector, c.arch.cpl)
        return 0
    if check_stack_segment(c, selector, c.arch.cpl, &d) or mark_accessed(c, &d):
        return EMU_FAULT
    load_cache(&c.arch.seg[SEG_SS], &d, selector)
    return 0


cdef int load_segment(CpuState* c, u32 index, u32 selector) noexcept nogil:
    """Load SS, DS, ES, FS or GS as MOV does: 0 or EMU_FAULT, which changes nothing."""
    if load_register(c, index, selector):
        return EMU_FAULT
    if not c.key & KEY_MODE64:
        # The key tells which segments are flat.
        update_key(c)
    return 0


cdef int load_register(CpuState* c, u32 index, u32 selector) noexcept nogil:
    cdef Descriptor d
    if paragraphs(c):
        load_paragraph(c, &c.arch.seg[index], selector)
        return 0
    if index == SEG_SS:
        return load_stack_segment(c, selector)
    if is_null(selector):
        load_null(&c.arch.seg[index], selector, 0)
        return 0
    if require(c, selector, &d):
        return EMU_FAULT
    if not d.ar & AR_S or (d.ar & AR_CODE and not d.ar & AR_READABLE):
        return raise_err(c, VEC_GP, selector_error(selector))
    if not (d.ar & AR_CODE and d.ar & AR_CONFORMING):
        if selector & 3 > dpl_of(d.ar) or c.arch.cpl > dpl_of(d.ar):
            return raise_err(c, VEC_GP, selector_error(selector))
    if not d.ar & AR_P:
        return raise_err(c, VEC_NP, selector_error(selector))
    if mark_accessed(c, &d):
        return EMU_FAULT
    load_cache(&c.arch.seg[index], &d, selector)
    return 0


cdef void set_segment(CpuState* c, u32 index, u32 selector, u64 base, u32 limit,
        u32 ar) noexcept nogil:
    """Set a segment register without a descriptor; CS sets the CPL, by CR0.PE and RFLAGS.VM."""
    c.arch.seg[index].selector = <u16>selector
    c.arch.seg[index].base = base
    c.arch.seg[index].limit = limit
    c.arch.seg[index].ar = ar
    if index == SEG_CS:
        c.arch.cpl = 0 if real_mode(c) else 3 if virtual_8086(c) else selector & 3
    update_key(c)


cdef int op_mov_from_seg(CpuState* c, OpInfo* op) noexcept nogil:
    """MOV r/m, Sreg: stores 16 bits in memory; zero-extends to a 32- or 64-bit register."""
    cdef u32 index = op.reg & 7
    if index > SEG_GS:
        return raise_exc(c, VEC_UD)
    if op.rm == 0xFF:
        return store(c, c.ea, 2, c.arch.seg[index].selector)
    write_gpr(c, op.rm, c.arch.seg[index].selector, op.size)
    return EMU_NEXT


cdef int op_mov_to_seg(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u32 index = op.reg & 7
    cdef u64 selector = 0
    if index > SEG_GS or index == SEG_CS:
        return raise_exc(c, VEC_UD)
    if op.rm != 0xFF:
        selector = c.arch.gpr[op.rm]
    elif load(c, c.ea, 2, &selector):
        return EMU_FAULT
    if load_segment(c, index, <u32>selector & 0xFFFF):
        return EMU_FAULT
    if index == SEG_SS:
        c.arch.inhibit = SHADOW_MOV_SS
    return EMU_NEXT


cdef u32 named_segment(OpInfo* op) noexcept nogil:
    """Return the segment register that the opcode of PUSH, POP, LSS, LFS or LGS names."""
    cdef u32 opcode = opcode_of(op)
    if opcode < 0x100:
        if opcode == 0xC5:
            return SEG_DS                     # LDS
        return (opcode >> 3) & 3              # 06h PUSH ES ... 1Fh POP DS; C4h LES
    if opcode == 0x1B2:
        return SEG_SS                         # LSS
    if opcode >= 0x1B4:
        return opcode & 7                     # LFS, LGS
    return SEG_FS if opcode < 0x1A8 else SEG_GS


cdef int op_push_seg(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 selector = c.arch.seg[named_segment(op)].selector
    if push_values(c, &rsp, &selector, 1, op.size):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    return EMU_NEXT


cdef int op_pop_seg(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 rsp = c.arch.gpr[RSP]
    cdef u64 selector = 0
    cdef u32 index = named_segment(op)
    if pop_value(c, &rsp, op.size, &selector):
        return EMU_FAULT
    if load_segment(c, index, <u32>selector & 0xFFFF):
        return EMU_FAULT
    c.arch.gpr[RSP] = rsp
    if index == SEG_SS:
        c.arch.inhibit = SHADOW_MOV_SS
    return EMU_NEXT


cdef int op_load_far(CpuState* c, OpInfo* op) noexcept nogil:
    """LDS, LES, LSS, LFS, LGS: load an offset of the operand's size, then the selector.

    On Intel's processors REX.W selects m16:64; AMD's read m16:32.
    """
    cdef u64 offset = 0
    cdef u64 selector = 0
    if load(c, c.ea, op.size, &offset) or load(c, c.ea + op.size, 2, &selector):
        return EMU_FAULT
    if load_segment(c, named_segment(op), <u32>selector):
        return EMU_FAULT
    write_gpr(c, op.reg, offset, op.size)
    return EMU_NEXT


cdef int op_swapgs(CpuState* c, OpInfo* op) noexcept nogil:
    cdef u64 base = c.arch.seg[SEG_GS].base
    if not c.key & KEY_MODE64:
        return raise_exc(c, VEC_UD)
    if c.arch.cpl:
        return raise_err(c, VEC_GP, 0)
    c.arch.seg[SEG_GS].base = c.arch.kernel_gs_base
    c.arch.kernel_gs_base = base
    return EMU_NEXT


cdef int op_read_base(CpuState* c, OpInfo* op, u32 index) noexcept nogil:
    """RDFSBASE and RDGSBASE."""
    if not c.key & KEY_MODE64 or not c.arch.cr4 & CR4_FSGSBASE:
        return raise_exc(c, VEC_UD)
    write_gpr(c, op.rm, c.arch.seg[index].base, op.size)
    return EMU_NEXT


cdef int op_write_base(CpuState* c, OpInfo* op, u32 index) noexcept nogil:
    """WRFSBASE and WRGSBASE: zero-extend 32 bits; a non-canonical base raises #GP(0)."""
    cdef u64 base = c.arch.gpr[op.rm]
    if not c.key & KEY_MODE64 or not c.arch.cr4 & CR4_FSGSBASE:
        return raise_exc(c, VEC_UD)
    if op.size == 4:
        base &= <u64>0xFFFFFFFF
    if not is_canonical(base):
        return raise_err(c, VEC_GP, 0)
    c.arch.seg[index].base = base
    return EMU_NEXT
