"""Innocuous instructions with special memory operands: bit strings, strings, LEAVE, gathers."""
from ringlet.core.state cimport (u8, u32, u64, i32, i64, RAX, RBX, RSP, RBP, RSI, RDI, SEG_NONE,
                                 KEY_STEP, CpuState)
from ringlet.translate.insn cimport *
from ringlet.translate.builder cimport *
from ringlet.translate.bindings cimport end_copies, end_window, window_for
from ringlet.translate.encode cimport encode, is_away
from ringlet.translate.operands cimport (
    lookup, load_guest, window, linear_operand, add_segment, gather_operand)
from ringlet.translate.flow cimport add_link

cdef CpuState* _null = NULL
cdef u32 NADDEND = <u32><size_t>&_null.rsp_naddend
cdef u32 SCRATCH = <u32><size_t>&_null.scratch[0]


cdef int emit_bits(Builder* b, Insn* i, u32 flags_dead) noexcept nogil:
    """Emit BT, BTS, BTR or BTC with a register offset, which accesses EA + (offset >> 6) * 8.

    The addend must be that of the accessed address; the processor adds the offset itself.
    """
    cdef u32 reg = insn_reg(i), host
    cdef u32 shift = 6 if i.rex & 8 else 5, addend
    cdef Ref r
    if i.prefixes & (PFX_66 | PFX_67):
        return 0
    linear_operand(b, i)
    end_copies(b, SPILLED)   # their registers are needed
    # r8 := sign-extended bit offset >> shift
    host = load_guest(b, reg, H8)
    if not i.rex & 8:
        e8(b, 0x4C | (host >> 3)); e8(b, 0x63); e8(b, 0xC0 | (host & 7))     # movsxd r8, host
        host = H8
    addend = window_for(b, NULL) or WINDOW
    end_window(b, addend)
    # SARX takes its count in any register.
    e8(b, 0x41); e8(b, 0xB8 | (addend & 7)); e32(b, shift)                    # mov addend, shift
    e8(b, 0xC4); e8(b, 0x42 | ((1 - (host >> 3)) << 5))
    e8(b, 0x82 | ((15 - addend) << 3)); e8(b, 0xF7)
    e8(b, 0xC0 | (host & 7))                                            # sarx r8, host, addend
    r = ref_sum(H9, H8, 0)
    r.scale = 3 if i.rex & 8 else 2
    lea(b, H8, &r)                                                            # r8 := final address
    lookup(b, addend, H8)
    r = ref_sum(H9, <u8>addend, 0)
    host = reg
    if is_away(reg):
        load_guest(b, reg, H8)
        host = H8
    encode(b, i, i.opcode, host, &r, 0, 0)
    return 1


cdef inline void bias(Builder* b, u32 reg, u32 slot) noexcept nogil:
    """`reg` := its host address; store the negated addend in scratch[slot]."""
    rorx(b, H8, reg, 36)
    movzx16(b, H8, H8)
    load_table(b, H9, H8, b.nslots)
    store_state(b, H9, SCRATCH + 8 * slot)
    load_table(b, H8, H8, b.slots)
    lea_sum(b, reg, <u8>reg, H8, 0)


cdef inline void unbias(Builder* b, u32 reg, u32 slot) noexcept nogil:
    load_state(b, H8, SCRATCH + 8 * slot)
    lea_sum(b, reg, <u8>reg, H8, 0)


cdef int emit_string(Builder* b, Insn* i) noexcept nogil:
    """Emit MOVS, STOS, LODS, SCAS or CMPS on host addresses, which the fault handler reverts."""
    cdef u32 op = i.opcode & 0xFE
    cdef bint source = op == 0xA4 or op == 0xA6 or op == 0xAC
    cdef bint target = op != 0xAC
    if i.prefixes & PFX_67 or (i.seg != SEG_NONE and source):
        return 0
    if (b.key & KEY_STEP or b.once) and i.prefixes & (PFX_REP | PFX_REPNE):
        emit_once(b, i, source, target)
        return 1
    emit_element(b, i, source, target, True)
    return 1


cdef void emit_once(Builder* b, Insn* i, bint source, bint target) noexcept nogil:
    """Emit one repetition of a string instruction, which is then dispatched again."""
    cdef bint compares = (i.opcode & 0xFE) == 0xA6 or (i.opcode & 0xFE) == 0xAE
    e8(b, 0xE3); e8(b, 2)                                    # jrcxz to the jump below
    e8(b, 0xEB); e8(b, 5)                                    # jmp over it
    e8(b, 0xE9)
    add_link(b, <i64>i.offset + i.length, 0)
    emit_element(b, i, source, target, False)
    e8(b, 0x48); e8(b, 0x8D); e8(b, 0x49); e8(b, 0xFF)       # lea rcx, [rcx - 1]
    if compares:
        e8(b, 0x75 if i.prefixes & PFX_REP else 0x74); e8(b, 7)   # REPE ends at ZF = 0, REPNE at 1
    e8(b, 0xE3); e8(b, 5)                                    # jrcxz over
    e8(b, 0xE9)
    add_link(b, i.offset, 0)


cdef void emit_element(Builder* b, Insn* i, bint source, bint target, bint repeat) noexcept nogil:
    if source:
        bias(b, RSI, 0)
    if target:
        bias(b, RDI, 1)
    map_here(b, i.offset)
    if i.prefixes & PFX_66:
        e8(b, 0x66)
    if repeat and i.prefixes & PFX_REP:
        e8(b, 0xF3)
    elif repeat and i.prefixes & PFX_REPNE:
        e8(b, 0xF2)
    if i.rex & 8:
        e8(b, 0x48)
    e8(b, i.opcode)
    if source:
        unbias(b, RSI, 0)
    if target:
        unbias(b, RDI, 1)


cdef int emit_leave(Builder* b, Insn* i) noexcept nogil:
    """Emit RSP := RBP + 8, RBP := [RBP]; the access comes before any change."""
    cdef Ref r
    if i.prefixes & PFX_66:
        return 0
    lookup(b, H8, RBP)
    r = ref_sum(RBP, H8, 0)
    load_mem(b, H9, &r)
    lea_sum(b, RSP, RBP, H8, 8)
    rorx(b, H8, RBP, 36)
    movzx16(b, H8, H8)
    load_table(b, H8, H8, b.nslots)
    store_state(b, H8, NADDEND)
    mov_rr(b, RBP, H9)
    b.sp_moved = 0
    return 1


cdef int emit_xlat(Builder* b, Insn* i, u32 flags_dead) noexcept nogil:
    cdef Ref r
    if i.prefixes & PFX_67 or i.seg != SEG_NONE:
        return 0
    e8(b, 0x44); e8(b, 0x0F); e8(b, 0xB6); e8(b, 0xC8)       # movzx r9d, al
    lea_sum(b, H9, RBX, H9, 0)
    r = window(b, H9, 0, NULL, flags_dead)
    e8(b, 0x40 | rex_of(0, RAX, &r)); e8(b, 0x8A)
    modrm_mem(b, RAX, &r)
    return 1


cdef int emit_moffs(Builder* b, Insn* i) noexcept nogil:
    """Emit MOV between rAX and an absolute address in the ModRM form."""
    cdef Ref r
    e8(b, 0x49); e8(b, 0xB9); e64(b, <u64>i.imm)             # mov r9, imm64
    if i.seg != SEG_NONE:
        add_segment(b, i)
    lookup(b, H8, H9)
    r = ref_sum(H9, H8, 0)
    if i.prefixes & PFX_66:
        e8(b, 0x66)
    e8(b, 0x40 | (i.rex & 8) | rex_of(0, RAX, &r))
    e8(b, (0x8A if i.opcode < 0xA2 else 0x88) | (i.opcode & 1))
    modrm_mem(b, RAX, &r)
    return 1


cdef int emit_gather(Builder* b, Insn* i, u32 flags_dead) noexcept nogil:
    """Emit a gather with 32-bit indices; others reach any address, and leave for `op_gather`.

    A single step leaves too: if a lane faults after another was loaded, its trap comes first.  So
    does a gather that names a vector register twice, which raises #UD.
    """
    cdef u32 index = ((i.sib >> 3) & 7) | ((i.rex & 2) << 2), reg = insn_reg(i)
    cdef Ref r
    if i.opcode & 1 or not i.has_sib or i.seg != SEG_NONE or i.prefixes & PFX_67 \
            or b.key & KEY_STEP or reg == index or reg == i.vvvv or index == i.vvvv:
        return 0
    r = gather_operand(b, i, flags_dead)
    encode(b, i, i.opcode, reg, &r, 0, i.vvvv)
    return 1
