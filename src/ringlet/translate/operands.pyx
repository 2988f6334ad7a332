"""Rewriting of memory operands.

A linear address plus the addend of its slot (64 GiB) is its host address.  There are four ways to
find the addend, cheapest first:

- Base is RSP: the host's RSP includes the addend.
- The base is known to be in one of the fragment's two windows: r10 or r11 is its addend.
- The slot table gives the addend for bits 51..36 of the address.  This needs a load before the
  access, but neither a branch nor a flag.  The addend opens a window if the fragment uses the base
  again, unless both windows are used sooner.
- In a chain of pointers the slot is predicted, so that no load of the chain waits for the table.

Each way is sound for every 64-bit value: addends of unused and non-canonical slots make the sum
non-canonical, and displacements and extended 32-bit indices cannot reach beyond the guards.
"""
from ringlet.core.state cimport u8, u16, u32, u64, i32, i64, RSP, SEG_FS, SEG_GS, SEG_NONE
from ringlet.core.state cimport CpuState, BLOCK_SLOTS_K
from ringlet.translate.insn cimport (Insn, insn_base, insn_index, insn_opreg, is_far, is_near,
                                    FAR, FREE_RIP, NO_REG, PFX_67)
from ringlet.translate.bindings cimport *
from ringlet.translate.builder cimport *
from ringlet.translate.held cimport held, hold
from ringlet.translate.shape cimport ROLE_READ

cdef enum:
    MISSES = 64

cdef CpuState* _null = NULL
cdef u32 NADDEND = <u32><size_t>&_null.rsp_naddend
cdef u32 FS_HOST = <u32><size_t>&_null.fs_host
cdef u32 GS_HOST = <u32><size_t>&_null.gs_host
cdef u32 FS_BASE = <u32><size_t>&_null.arch.seg[4].base
cdef u32 GS_BASE = <u32><size_t>&_null.arch.seg[5].base


cdef u32 load_guest(Builder* b, u32 reg, u32 scratch) noexcept nogil:
    """Return a host register with guest register `reg`: its own, a copy, or `scratch`."""
    cdef u32 copy
    if reg == RSP:
        guest_rsp(b, scratch)
        return scratch
    if 8 <= reg <= 11:
        copy = held(b, reg)
        if copy:
            return copy
        load_state(b, scratch, reg * 8)
        return scratch
    return reg


cdef inline u32 part_of_address(Builder* b, u32 reg, u32 scratch) noexcept nogil:
    """Do what `load_guest` does, but copy a register that the fragment reads again."""
    return hold(b, reg, ROLE_READ) or load_guest(b, reg, scratch)


cdef void guest_rsp(Builder* b, u32 dst) noexcept nogil:
    """`dst` := the guest's RSP."""
    load_state(b, dst, NADDEND)
    lea_sum(b, dst, RSP, <u8>dst, 0)


cdef void bind_rsp(Builder* b, u32 reg) noexcept nogil:
    """Set the guest's RSP to the value in `reg` (r8 or r9); both scratch registers change."""
    cdef u32 other = H9 if reg == H8 else H8
    rorx(b, other, reg, 36)
    movzx16(b, other, other)
    mov_rr(b, RSP, reg)
    load_table(b, reg, other, b.nslots)
    store_state(b, reg, NADDEND)
    load_table(b, reg, other, b.slots)
    lea_sum(b, RSP, RSP, <u8>reg, 0)
    b.sp_moved = 0


cdef void lookup(Builder* b, u32 dst, u32 reg) noexcept nogil:
    """`dst` := addend of the slot of the linear address in `reg`; no flag changes."""
    rorx(b, dst, reg, 36)
    movzx16(b, dst, dst)
    load_table(b, dst, dst, b.slots)


cdef inline bint fits32(u64 v) noexcept nogil:
    return <i64>(<i32>v) == <i64>v


cdef Ref window(Builder* b, u32 reg, i64 disp, Binding* what, u32 flags_dead) noexcept nogil:
    """Return the operand [reg + disp]; `what` names the guest registers in `reg`, or is NULL.

    r8 changes.
    """
    cdef Binding* known = find_binding(b, what)
    cdef u32 addend
    if known != NULL:
        if not b.maybe:
            known.accessed = 1
            known.moved = 0
        b.pinned |= <u32>1 << known.window
        return ref_sum(<u8>reg, <u8>known.window, <i32>disp)
    addend = window_for(b, what)
    if addend == 0:
        lookup(b, H8, reg)
        return ref_sum(<u8>reg, H8, <i32>disp)
    end_window(b, addend)
    b.pinned |= <u32>1 << addend
    if flags_dead and b.speculate and what != NULL and b.loops and b.chained >> what.base & 1 \
            and b.n_cold < MAX_COLD:
        predict(b, addend, reg)
    else:
        lookup(b, addend, reg)
    if what != NULL:
        add_binding(b, what, addend, 0, not b.maybe)
    return ref_sum(<u8>reg, <u8>addend, <i32>disp)


cdef void predict(Builder* b, u32 dst, u32 reg) noexcept nogil:
    """Do what `lookup` does, but without waiting for `reg`; flags and r8 change.

    In a chain of pointers each address waits for a load, and the next load would wait for the slot
    table as well.  With a prediction it does not: the processor goes on with the slot that the
    instruction used last while the comparison waits for the address.
    """
    cdef Cold* cold = &b.cold[b.n_cold]
    load_predicted(b, dst)
    rorx(b, H8, reg, 36)
    cmp16(b, H8, dst)
    e8(b, 0x0F); e8(b, 0x85)                       # jne
    b.n_cold += 1
    cold.at = b.n
    e32(b, 0)
    cold.back = b.n
    cold.guest = <u16>b.current
    cold.window = <u8>dst
    load_table(b, dst, dst, b.slots)


cdef void probe(Builder* b) noexcept nogil:
    """Probe the stack if RSP moved without an access, so that it cannot move past the guards.

    A fault of the probe is not a fault of the guest.  The handler lets the fragment continue only
    if RSP is bound to the slot that it points into (vcpu.loop.faults).
    """
    if b.sp_moved:
        e32(b, PROBE_FIRST)
        e8(b, PROBE_REST & 0xFF); e8(b, PROBE_REST >> 8)
        b.sp_moved = 0


cdef void emit_cold(Builder* b) noexcept nogil:
    """Emit the missed predictions out of line: use the address's own slot, and predict it.

    After `MISSES` a slot is predicted that no canonical address has, so that from then on every
    pass comes here.  This costs less than a branch that goes now one way and now the other.  The
    count starts again after 65,536.
    """
    cdef u32 k
    cdef Cold* c
    for k in range(b.n_cold):
        c = &b.cold[k]
        b.current = c.guest
        map_here(b, c.guest)
        patch_rel32(b, c.at, b.n)
        movzx16(b, c.window, H8)
        misses_imm(b, 0, 1)
        misses_imm(b, 7, MISSES)
        e8(b, 0xF5)                                                   # cmc
        e8(b, 0x45); e8(b, 0x19); e8(b, 0xC0)                         # sbb r8d, r8d
        e8(b, 0x41); e8(b, 0xC1); e8(b, 0xE0); e8(b, 15)              # shl r8d, 15
        e8(b, 0x45); e8(b, 0x31); e8(b, 0xC0 | (c.window & 7) << 3)   # xor r8d, window
        store_predicted(b, H8)
        e8(b, 0xE9)
        e32(b, c.back - (b.n + 4))


cdef Ref constant(Builder* b, i64 delta) noexcept nogil:
    """Return the operand at the fragment's RIP + delta, in 64-bit code, without segment base."""
    cdef Ref r
    e8(b, 0x4C); e8(b, 0x8B); e8(b, 0x04); e8(b, 0x25)      # mov r8, [slot entry]
    reloc(b, RELOC_SLOT, delta)
    e32(b, 0)
    if fits32(b.rip + <u64>delta):
        r = ref_mem(H8, <i32>delta)
        r.linear = 1
        return r
    e8(b, 0x49); e8(b, 0xB9)                                # mov r9, imm64
    reloc(b, RELOC_RIP64, delta)
    e64(b, b.rip + <u64>delta)
    lea_sum(b, H8, H8, H9, 0)
    return ref_mem(H8, 0)


cdef Ref of_disp(Builder* b, Insn* i, u8 base, u8 index) noexcept nogil:
    """Return [base + index + disp] of host registers and the guest's own displacement."""
    cdef Ref r = ref_sum(base, index, i.disp)
    r.own = i.disp_size == 4 and not i.rip_relative and is_far(i.disp)
    return r


cdef inline Ref absolute(Builder* b, Insn* i, u8 index, u8 scale) noexcept nogil:
    """Return the operand [index * scale + disp], index bounded or none: its slot is known."""
    cdef Ref r
    cdef i32 disp = i.disp
    e8(b, 0x4C); e8(b, 0x8B); e8(b, 0x04); e8(b, 0x25)
    reloc(b, RELOC_STATE, b.slots + <i64>((<u64><i64>disp >> 36) & 0xFFFF) * 8)
    e32(b, <u32>(b.block + b.slots + ((<u64><i64>disp >> 36) & 0xFFFF) * 8))
    r = of_disp(b, i, H8, index)
    r.scale = scale
    return r


cdef void effective_address(Builder* b, Insn* i, u32 base, u32 index) noexcept nogil:
    """r9 := base + index * scale + disp, truncated with 67h, without the segment's base."""
    cdef Ref r
    cdef u32 w = 0 if i.prefixes & PFX_67 else 8
    if i.rip_relative:
        mov_rip(b, i, H9)
        if w == 0:
            mov_rr32(b, H9, H9)
        return
    r = of_disp(b, i, NO_REG, NO_REG)
    r.scale = i.sib >> 6 if i.has_sib else 0
    r.base = <u8>base
    r.index = NO_REG
    if base != NO_REG:
        r.base = <u8>part_of_address(b, base, H9)
    if index != NO_REG:
        r.index = <u8>part_of_address(b, index, H8)
    else:
        r.scale = 0
    e8(b, 0x40 | w | rex_of(0, H9, &r))
    e8(b, 0x8D)
    modrm_mem(b, H9, &r)


cdef inline void mov_rip(Builder* b, Insn* i, u32 dst) noexcept nogil:
    """`dst` := the address of the RIP-relative operand of `i`."""
    cdef i64 end = <i64>i.offset + i.length
    e8(b, 0x48 | (dst >> 3))
    e8(b, 0xB8 | (dst & 7))
    i.free |= FREE_RIP
    reloc(b, RELOC_FIELD64, end | (<i64>i.offset + i.imm_at - 4) << 16)
    e64(b, b.rip + <u64>end + <u64><i64>i.disp)


cdef inline void mov_rr32(Builder* b, u32 dst, u32 src) noexcept nogil:
    e8(b, 0x40 | ((src >> 3) << 2) | (dst >> 3))
    e8(b, 0x89)
    e8(b, 0xC0 | ((src & 7) << 3) | (dst & 7))


cdef void add_segment(Builder* b, Insn* i) noexcept nogil:
    """r9 += the base of FS or GS; r8 changes."""
    load_state(b, H8, FS_BASE if i.seg == SEG_FS else GS_BASE)
    lea_sum(b, H9, H9, H8, 0)


cdef void linear_operand(Builder* b, Insn* i) noexcept nogil:
    effective_address(b, i, insn_base(i), insn_index(i))
    if i.seg == SEG_FS or i.seg == SEG_GS:
        add_segment(b, i)


cdef inline bint bounded(Builder* b, u32 index) noexcept nogil:
    return index != RSP and (b.zero_extended >> index) & 1


cdef inline bint bounded_both_ways(Builder* b, u32 index, u32 base) noexcept nogil:
    """Whether the index is at most 2^31 and may be negative.

    An access through it tells too little of its base: the sum of two such indices crosses a guard.
    So it does not renew a binding, and it takes none in a loop, which relies on renewed bindings,
    nor RSP, which does the same.
    """
    return index != RSP and base != RSP and not b.in_loop and (b.sign_extended >> index) & 1


cdef Ref memory_operand(Builder* b, Insn* i, u32 flags_dead, bint keep) noexcept nogil:
    cdef u32 base = insn_base(i), index = insn_index(i), host
    cdef bint spilled = 8 <= index <= 11
    cdef u32 factor = held(b, index) if spilled else index
    cdef Binding what
    cdef Binding* known
    cdef u8 scale = i.sib >> 6 if i.has_sib else 0
    cdef u32 maybe = b.maybe
    cdef Ref r
    if i.prefixes & PFX_67:
        linear_operand(b, i)
        return shrink(b, window(b, H9, 0, NULL, flags_dead), keep)
    if i.seg != SEG_NONE:
        if base == NO_REG and index == NO_REG and not i.rip_relative:
            load_state(b, H8, FS_HOST if i.seg == SEG_FS else GS_HOST)
            return of_disp(b, i, H8, NO_REG)
        linear_operand(b, i)
        return shrink(b, window(b, H9, 0, NULL, flags_dead), keep)
    if i.rip_relative:
        return constant(b, <i64>i.offset + i.length + i.disp)
    if index == NO_REG:
        if base == RSP:
            return of_disp(b, i, RSP, NO_REG)
        if base == NO_REG:
            return absolute(b, i, NO_REG, 0)
        what = binding(base, NO_REG, 0)
        if not is_near(i.disp) and (not -FAR <= i.disp <= FAR or find_binding(b, &what) == NULL):
            # The displacement is likely an address, so the sum is in another slot than the base.
            effective_address(b, i, base, index)
            known = &what if -FAR <= i.disp <= FAR else NULL
            return shrink(b, window(b, H9, 0, known, flags_dead), keep)
        host = part_of_address(b, base, H9)
        return shrink(b, window(b, host, i.disp, &what, flags_dead), keep)
    if ((bounded(b, index) or bounded_both_ways(b, index, base)) and (factor or not spilled)
            and (base == NO_REG or is_near(i.disp))):
        if base == RSP:
            r = of_disp(b, i, RSP, <u8>factor)
            r.scale = scale
            return r
        if base == NO_REG:
            return absolute(b, i, <u8>factor, scale)
        host = part_of_address(b, base, H9)
        what = binding(base, NO_REG, 0)
        if not bounded(b, index):
            b.maybe = 1
        r = window(b, host, 0, &what, flags_dead)
        b.maybe = maybe
        lea_sum(b, H9, r.base, r.index, 0)
        r = ref_sum(H9, <u8>factor, i.disp)
        r.scale = scale
        return r
    effective_address(b, i, base, index)
    if base == NO_REG or base == RSP or not -FAR <= i.disp <= FAR:
        return shrink(b, window(b, H9, 0, NULL, flags_dead), keep)
    what = binding(base, index, scale)
    return shrink(b, window(b, H9, 0, &what, flags_dead), keep)


cdef Ref gather_operand(Builder* b, Insn* i, u32 flags_dead) noexcept nogil:
    """Return the operand of a gather with 32-bit indices, which reach at most 16 GiB from the base.

    The guards absorb that, so the addend is the base's alone.  It must be that of the base's own
    slot: RSP, or a base in a loop, may be 34 GiB away from the slot to which it is bound.
    """
    cdef u32 base = insn_base(i), host
    cdef Binding what
    cdef Ref r
    if base == NO_REG:
        r = absolute(b, i, NO_REG, 0)
    elif base == RSP or b.in_loop or not is_near(i.disp):
        effective_address(b, i, base, NO_REG)
        r = window(b, H9, 0, NULL, flags_dead)
    else:
        host = part_of_address(b, base, H9)
        what = binding(base, NO_REG, 0)
        r = window(b, host, i.disp, &what, flags_dead)
    if r.index != NO_REG:
        lea(b, H9, &r)
        r = ref_mem(H9, 0)
    r.index = ((i.sib >> 3) & 7) | ((i.rex & 2) << 2)
    r.scale = i.sib >> 6
    return r


cdef inline Ref shrink(Builder* b, Ref r, bint keep) noexcept nogil:
    """Free r8 if the operand uses both scratch registers."""
    if keep and r.index == H8 and r.base == H9:
        lea(b, H9, &r)
        return ref_mem(H9, 0)
    return r
