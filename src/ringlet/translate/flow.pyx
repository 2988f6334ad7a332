"""Control flow out of and inside translated code.

Direct jumps are linked: their rel32 first leads to a stub of the code cache that names the link,
and it is patched when the target is translated.  Indirect jumps use the low 16 bits of the target
as an index into the jump table of the fragment's key; the entry leads to a thunk that compares the
whole address.
Sensitive instructions leave with their OpInfo.
"""
from ringlet.core.state cimport (u8, u16, u32, u64, i32, i64, RSP, SEG_NONE, KEY_CPL, KEY_STEP,
                                 BLOCK_JUMPS, CpuState, OpInfo, OPF_REP, OPF_REPNE, OPF_LOCK,
                                 OPF_ADDR32, OPF_REXW)
from ringlet.core.ops cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *
from ringlet.translate.bindings cimport keep_for_loop
from ringlet.translate.builder cimport *
from ringlet.translate.operands cimport memory_operand, linear_operand, load_guest, guest_rsp, probe

cdef CpuState* _null = NULL
cdef u32 EA = <u32><size_t>&_null.ea
cdef u32 OP_INFO = <u32><size_t>&_null.op_info
cdef u32 EXIT_ARG = <u32><size_t>&_null.exit_arg


cdef bint ends_fragment(u32 op) noexcept nogil:
    """Whether execution never continues after `op` with the same key at the next instruction."""
    return op in (OP_INT, OP_INT3, OP_INT1, OP_IRET, OP_SYSCALL, OP_SYSRET, OP_SYSENTER, OP_SYSEXIT,
                  OP_CALL_FAR, OP_JMP_FAR, OP_RET_FAR, OP_UD, OP_NM)


cdef void name_op(Builder* b, Insn* i, u32 op) noexcept nogil:
    """Set op_info to the description of the instruction, for which there must be room."""
    cdef OpInfo* o = &b.ops[b.n_ops]
    cdef u32 k
    cdef bint mem = (b.shapes.groups[i.enc][i.map][i.opcode] & GROUP_MODRM) and i.modrm < 0xC0
    o.op = <u16>op
    o.rip = i.offset
    o.imm = <u64>i.imm
    o.size = i.shape.size
    o.length = i.length
    o.reg = insn_reg(i)
    if i.shape.opreg:
        o.reg = insn_opreg(i)
    o.rm = 0xFF if mem else insn_rm(i)
    o.seg = i.seg
    o.flags = 0
    if i.prefixes & PFX_REP:
        o.flags |= OPF_REP
    if i.prefixes & PFX_REPNE:
        o.flags |= OPF_REPNE
    if i.prefixes & PFX_LOCK:
        o.flags |= OPF_LOCK
    if i.prefixes & PFX_67:
        o.flags |= OPF_ADDR32
    if i.rex & 8:
        o.flags |= OPF_REXW
    for k in range(16):
        o.bytes[k] = b.code[i.offset + k] if k < i.length and k < 15 else 0
    o.resume = 0
    i.free |= FREE_NONE   # OpInfo holds the instruction's bytes
    e8(b, 0x48); e8(b, 0xC7); e8(b, 0x04); e8(b, 0x25)        # mov qword [op_info], imm32
    reloc(b, RELOC_STATE, OP_INFO)
    e32(b, <u32>(b.block + OP_INFO))
    reloc(b, RELOC_OP, b.n_ops)
    e32(b, 0)
    b.n_ops += 1


cdef void emit_op(Builder* b, Insn* i, u32 op) noexcept nogil:
    """Leave for the virtual processor to perform `op`; the code after it may be resumed."""
    cdef bint mem = (b.shapes.groups[i.enc][i.map][i.opcode] & GROUP_MODRM) and i.modrm < 0xC0
    if b.n_ops >= MAX_OPS:
        b.full = 1
        return
    probe(b)
    mem = mem and i.shape.kind == SHAPE_OP and op != OP_UD and op != OP_NM
    if mem:
        linear_operand(b, i)
    leave_for(b, i, op, mem)


cdef void leave_for(Builder* b, Insn* i, u32 op, bint mem) noexcept nogil:
    """Leave for `op`, for which there must be room; `mem`: r9 is the address of its operand."""
    if mem:
        store_state(b, H9, EA)
    name_op(b, i, op)
    jmp_stub(b, STUB_OP)
    # An operation that ends the fragment never resumes, even if it changed nothing.  Nor does one
    # in a checked fragment, because it may have overwritten the code that follows.
    if not b.checked and (not ends_fragment(op) or i.shape.unit == UNIT_WAIT):
        b.ops[b.n_ops - 1].resume = b.n
    b.n_bindings = 0
    b.zero_extended = b.sign_extended = 0


cdef void name_branch(Builder* b, Insn* i, i64 back) noexcept nogil:
    """Name the indirect branch in op_info, so that a non-canonical target raises #GP at its RIP.

    Speculating fragments omit this for speed.  `back` is the distance to move RSP before the #GP.
    """
    if (b.speculate and not b.key & KEY_STEP) or b.n_ops >= MAX_OPS:
        return
    name_op(b, i, OP_NONE)
    b.ops[b.n_ops - 1].imm = <u64>back


cdef void add_link(Builder* b, i64 target, u32 conditional) noexcept nogil:
    """Emit a rel32 that will lead to `target`."""
    cdef Link* l
    if b.n_links >= MAX_LINKS:
        b.full = 1
        e32(b, 0)
        return
    l = &b.links[b.n_links]
    l.at = b.n
    l.target = target
    l.conditional = conditional
    l.home = 0
    b.n_links += 1
    e32(b, 0)


cdef void emit_jump(Builder* b, i64 target) noexcept nogil:
    probe(b)
    e8(b, 0xE9)
    add_link(b, target, 0)


cdef void lead_home(Builder* b) noexcept nogil:
    """Let the links that have a home lead there.  The code cache has stubs for the others."""
    cdef u32 k
    for k in range(b.n_links):
        if b.links[k].home:
            patch_rel32(b, b.links[k].at, b.links[k].home)


cdef void emit_thunk(Builder* b) noexcept nogil:
    """Emit the entry for indirect jumps, which checks that r8 is this fragment's RIP.

    The comparison keeps the flags, even if they are dead in this fragment: if r8 is the address of
    another, they may be live there.
    """
    b.thunk = b.n
    mov_rr(b, H9, 1)
    if b.small and <i64>b.rip != -(<i64>1 << 31):
        e8(b, 0x49); e8(b, 0x8D); e8(b, 0x88)                 # lea rcx, [r8 - rip]
        reloc(b, RELOC_NRIP32, 0)
        e32(b, <u32>(0 - b.rip))
    else:
        e8(b, 0x48); e8(b, 0xB9)                              # mov rcx, -rip
        reloc(b, RELOC_NRIP64, 0)
        e64(b, 0 - b.rip)
        lea_sum(b, 1, 1, H8, 0)
    e8(b, 0xE3); e8(b, 8)                                     # jrcxz over
    mov_rr(b, 1, H9)
    jmp_stub(b, STUB_INDIRECT)
    mov_rr(b, 1, H9)


cdef void check_piece(Builder* b, u32 at, u32 size) noexcept nogil:
    """Compare `size` (1, 2, 4, 8) guest bytes at `at` with those that were translated."""
    cdef u64 expected = 0
    cdef u32 k
    for k in range(size):
        expected |= <u64>b.code[at + k] << (8 * k)
    e8(b, 0x49); e8(b, 0xB8)                                  # mov r8, source + at
    reloc(b, RELOC_SOURCE, at)
    e64(b, <u64>b.source + at)
    if size == 8:
        e8(b, 0x4D); e8(b, 0x8B)                              # mov r8, [r8]
    elif size == 4:
        e8(b, 0x45); e8(b, 0x8B)                              # mov r8d, [r8]
    else:
        e8(b, 0x45); e8(b, 0x0F)                              # movzx r8d, word or byte [r8]
        e8(b, 0xB7 if size == 2 else 0xB6)
    e8(b, 0)
    e8(b, 0x48); e8(b, 0xB9)                                  # mov rcx, -expected
    e64(b, 0 - expected)
    lea_sum(b, 1, 1, H8, 0)
    e8(b, 0xE3); e8(b, 5)                                     # jrcxz over
    e8(b, 0xE9)                                               # jmp stale
    b.checks[b.n_checks] = b.n
    b.n_checks += 1
    e32(b, 0)


cdef void emit_check(Builder* b) noexcept nogil:
    """Leave if the guest bytes have changed since they were translated.

    An instruction that stores is the last one of its fragment, so the check stays valid until then.
    The check changes no flag, because the new bytes may need flags that the old ones do not.  Every
    piece is aligned, because the guest's alignment checks may be on.
    """
    cdef u32 at = 0, size, length = b.guest_bytes
    b.n_checks = 0
    mov_rr(b, H9, 1)
    while at < length:
        size = 8
        while size > length - at or (b.linear + at) & (size - 1):
            size >>= 1
        check_piece(b, at, size)
        at += size
    mov_rr(b, 1, H9)


cdef void emit_stale(Builder* b) noexcept nogil:
    """Emit the out-of-line code by which `emit_check` leaves."""
    cdef u32 k
    for k in range(b.n_checks):
        patch_rel32(b, b.checks[k], b.n)
    mov_rr(b, 1, H9)
    e8(b, 0xC7); e8(b, 0x04); e8(b, 0x25)                     # mov dword [exit_arg], fragment
    reloc(b, RELOC_STATE, EXIT_ARG)
    e32(b, <u32>(b.block + EXIT_ARG))
    reloc(b, RELOC_FRAGMENT, 0)
    e32(b, 0)
    jmp_stub(b, STUB_STALE)


cdef void emit_indirect(Builder* b) noexcept nogil:
    """Go to the RIP in r8."""
    if b.key & KEY_STEP:
        # The jump table may lead to code that does not step.
        jmp_stub(b, STUB_INDIRECT)
        return
    movzx16(b, H9, H8)
    b.indirect = b.n
    e8(b, 0x42); e8(b, 0xFF); e8(b, 0x24); e8(b, 0xCD)        # jmp [r9 * 8 + table]
    reloc(b, RELOC_TABLE, 0)
    e32(b, <u32>(b.block + BLOCK_JUMPS))


cdef void push_return(Builder* b, Insn* i) noexcept nogil:
    cdef i64 delta = <i64>i.offset + i.length
    if <i64>(<i32>(b.rip + <u64>delta)) == <i64>(b.rip + <u64>delta):
        e8(b, 0x68)
        reloc(b, RELOC_RIP32, delta)
        e32(b, <u32>(b.rip + <u64>delta))
    else:
        e8(b, 0x49); e8(b, 0xB9)                              # mov r9, imm64
        reloc(b, RELOC_RIP64, delta)
        e64(b, b.rip + <u64>delta)
        e8(b, 0x41); e8(b, 0x51)                              # push r9
    b.sp_moved = 0


cdef void load_target(Builder* b, Insn* i, u32 flags_dead) noexcept nogil:
    """r8 := the target of an indirect jump or call."""
    cdef Ref r
    cdef u32 host
    if i.modrm >= 0xC0:
        host = load_guest(b, insn_rm(i), H8)
        if host != H8:
            mov_rr(b, H8, host)
        return
    r = memory_operand(b, i, flags_dead, False)
    load_mem(b, H8, &r)


cdef int emit_loop(Builder* b, Insn* i, i64 target, i64 after) noexcept nogil:
    """Emit LOOP, LOOPE, LOOPNE or JRCXZ, without changing a flag."""
    cdef u32 skip, second = 0
    cdef u32 op = i.opcode
    if op != 0xE3:
        if i.prefixes & PFX_67:
            e8(b, 0x8D); e8(b, 0x49); e8(b, 0xFF)             # lea ecx, [rcx - 1]
        else:
            e8(b, 0x48); e8(b, 0x8D); e8(b, 0x49); e8(b, 0xFF)
    if i.prefixes & PFX_67:
        e8(b, 0x67)
    e8(b, 0xE3)
    skip = b.n
    e8(b, 0)
    if op == 0xE3:
        e8(b, 0xE9)
        add_link(b, after, 0)
        b.out[skip] = <u8>(b.n - skip - 1)
        e8(b, 0xE9)
        add_link(b, target, 0)
        return 1
    if op != 0xE2:
        e8(b, 0x75 if op == 0xE1 else 0x74)
        second = b.n
        e8(b, 0)
    e8(b, 0xE9)
    add_link(b, target, 0)
    b.out[skip] = <u8>(b.n - skip - 1)
    if second:
        b.out[second] = <u8>(b.n - second - 1)
    e8(b, 0xE9)
    add_link(b, after, 0)
    return 1


cdef bint begin_loop(Builder* b) noexcept nogil:
    """Lead a branch to the fragment's start to a copy of the body; False: that gains nothing.

    The copy begins with the bindings of the first pass, so it need not check them again
    (`fragment.emit_loop_copy`).
    """
    if b.in_loop or b.loop_at or b.n_ops or b.checked or b.key & KEY_STEP:
        return False
    keep_for_loop(b)
    if b.n_loop == 0:
        return False
    b.loop_at = b.n
    e32(b, 0)
    return True


cdef int emit_branch(Builder* b, Insn* i, u32 flags_dead) noexcept nogil:
    """Emit a control transfer that is not sensitive; 1 if the fragment continues after it."""
    cdef u32 kind = i.shape.kind
    cdef i64 after = <i64>i.offset + i.length
    cdef i64 target = after + i.imm
    if kind == SHAPE_JMP:
        probe(b)
        e8(b, 0xE9)
        if target != 0 or not begin_loop(b):
            add_link(b, target, 0)
        return 0
    if kind == SHAPE_JCC:
        probe(b)
        e8(b, 0x0F); e8(b, 0x80 | (i.opcode & 15))
        if target != 0 or not begin_loop(b):
            add_link(b, target, 1)
        return 1
    if kind == SHAPE_LOOP and loops_by_prefix(i):
        emit_op(b, i, OP_EMULATE)
        if not b.checked:
            # Where it does not branch, the emulator comes back here.
            emit_jump(b, after)
        return 0
    if kind == SHAPE_LOOP:
        probe(b)
        emit_loop(b, i, target, after)
        return 0
    if kind == SHAPE_CALL:
        push_return(b, i)
        emit_jump(b, target)
        return 0
    if kind == SHAPE_JMP_IND:
        probe(b)
        load_target(b, i, flags_dead)
        name_branch(b, i, 0)
        emit_indirect(b)
        return 0
    if kind == SHAPE_CALL_IND:
        load_target(b, i, flags_dead)
        push_return(b, i)
        name_branch(b, i, 8)
        emit_indirect(b)
        return 0
    # Near return.
    e8(b, 0x41); e8(b, 0x58)                                  # pop r8
    if i.shape.imm:
        lea_disp(b, RSP, RSP, <i32>(i.imm & 0xFFFF))
    name_branch(b, i, -8 - ((i.imm & 0xFFFF) if i.shape.imm else 0))
    emit_indirect(b)
    return 0
