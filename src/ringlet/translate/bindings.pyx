"""Bindings of guest registers to the fragment's two windows."""
from ringlet.core.ops cimport OP_NONE
from ringlet.core.state cimport u8, u32, i64, RSP, SEG_NONE
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *
from ringlet.translate.builder cimport *

cdef enum:
    UNUSED = NEVER + 1   # a window to which nothing is bound


cdef Binding* find_binding(Builder* b, Binding* what) noexcept nogil:
    cdef u32 k
    if what == NULL:
        return NULL
    for k in range(b.n_bindings):
        if (b.bindings[k].base == what.base and b.bindings[k].index == what.index
                and b.bindings[k].scale == what.scale):
            return &b.bindings[k]
    return NULL


cdef void add_binding(Builder* b, Binding* what, u32 window, u32 moved,
                      bint accessed) noexcept nogil:
    cdef Binding* x = find_binding(b, what)
    if x == NULL:
        if b.n_bindings == MAX_BINDINGS:
            return
        x = &b.bindings[b.n_bindings]
        b.n_bindings += 1
        x[0] = what[0]
    x.window = window
    x.moved = moved
    x.accessed = accessed


cdef inline bint copies(Insn* i) noexcept nogil:
    """MOV r64, r64."""
    return ((i.opcode == 0x89 or i.opcode == 0x8B) and i.map == 0 and i.modrm >= 0xC0
            and (i.rex & 8) and i.enc == ENC_LEGACY and not i.prefixes & PFX_66)


cdef inline bint steps(Insn* i) noexcept nogil:
    """ADD, SUB, INC or DEC of a 64-bit register by a constant."""
    if i.map or i.enc or i.modrm < 0xC0 or not i.rex & 8 or i.prefixes & PFX_66:
        return False
    if i.opcode == 0x83 or i.opcode == 0x81:
        return ((i.modrm >> 3) & 7) == 0 or ((i.modrm >> 3) & 7) == 5
    return i.opcode == 0xFF and (i.modrm >> 3) & 7 <= 1


cdef inline void written(u32 role, u32 reg, bint high, u32* mask, u32* zero) noexcept nogil:
    if role & ROLE_WRITE:
        if high:
            reg -= 4
        mask[0] |= 1 << reg
        if (role & 7) == ROLE_32 and not role & ROLE_MAYBE:
            zero[0] |= 1 << reg


cdef void step_bindings(Builder* b, u32 reg, i64 step) noexcept nogil:
    """Move the bindings that contain `reg`, to which a constant was added."""
    cdef u32 k = 0, by
    cdef Binding* x
    if step < 0:
        step = -step
    while k < b.n_bindings:
        x = &b.bindings[k]
        if x.scale == HELD:
            k += 1
            continue
        by = 0
        if x.base == reg:
            by += <u32>step
        if x.index == reg:
            by += <u32>step << x.scale
        if by:
            x.moved += by
            if x.moved > TOTAL_MOVE:
                b.n_bindings -= 1
                x[0] = b.bindings[b.n_bindings]
                continue
        k += 1


cdef void end_bindings(Builder* b, u32 mask) noexcept nogil:
    """End the bindings of the registers in `mask`, which have new values."""
    cdef u32 k = 0
    cdef Binding* x
    while k < b.n_bindings:
        x = &b.bindings[k]
        if x.scale != HELD and ((mask >> x.base) & 1
                                or (x.index != NO_REG and (mask >> x.index) & 1)):
            b.n_bindings -= 1
            x[0] = b.bindings[b.n_bindings]
            continue
        k += 1


cdef void end_copies(Builder* b, u32 mask) noexcept nogil:
    cdef u32 k = 0
    while k < b.n_bindings:
        if b.bindings[k].scale == HELD and (mask >> b.bindings[k].base) & 1:
            b.n_bindings -= 1
            b.bindings[k] = b.bindings[b.n_bindings]
            continue
        k += 1


cdef void note_results(Builder* b) noexcept nogil:
    """Note the copies that the current instruction has left in window registers."""
    cdef u32 reg
    cdef Binding x
    for reg in range(8, 12):
        if (b.results >> reg) & 1:
            x = binding(reg, NO_REG, HELD)
            add_binding(b, &x, b.result_in[reg - 8], 0, True)


cdef void derive(Builder* b, Insn* i, u32 mask) noexcept nogil:
    """Bind the destination of a copy or LEA whose source is bound."""
    cdef Binding source, target
    cdef Binding* x
    cdef u32 dst, src, moved, window
    if copies(i):
        dst = insn_rm(i) if i.opcode == 0x89 else insn_reg(i)
        src = insn_reg(i) if i.opcode == 0x89 else insn_rm(i)
        source = binding(src, NO_REG, 0)
        moved = 0
    elif (i.shape.kind == SHAPE_ADDRESS and (i.rex & 8) and not i.prefixes & (PFX_66 | PFX_67)
            and not i.rip_relative and insn_base(i) != NO_REG
            and -SMALL_MOVE <= i.disp <= SMALL_MOVE):
        dst = insn_reg(i)
        source = binding(insn_base(i), insn_index(i), i.sib >> 6 if i.has_sib
                         and insn_index(i) != NO_REG else 0)
        moved = <u32>(i.disp if i.disp >= 0 else -i.disp)
    else:
        end_bindings(b, mask)
        return
    x = find_binding(b, &source)
    if x == NULL or x.moved + moved > TOTAL_MOVE or dst == RSP:
        end_bindings(b, mask)
        return
    moved += x.moved
    window = x.window
    end_bindings(b, mask)
    target = binding(dst, NO_REG, 0)
    add_binding(b, &target, window, moved, False)


cdef u32 writes(Insn* i, u32* zero, u32* narrow) noexcept nogil:
    """Return the registers that `i` writes, one bit each.

    `zero`: those of which it clears the upper half; `narrow`: it writes 8 or 16 bits of them.
    """
    cdef Shape* s = i.shape
    cdef u32 mask = s.implicit_write
    cdef bint byte_high = not i.prefixes & PFX_REX and i.enc == ENC_LEGACY
    if s.reg & ROLE_WRITE:
        written(s.reg, insn_reg(i), byte_high and (s.reg & 7) == ROLE_8 and insn_reg(i) >= 4,
                &mask, zero)
        if (s.reg & 7) <= ROLE_16:
            narrow[0] |= mask
    if (s.rm & ROLE_WRITE) and i.modrm >= 0xC0:
        written(s.rm, insn_rm(i), byte_high and (s.rm & 7) == ROLE_8 and insn_rm(i) >= 4,
                &mask, zero)
        if (s.rm & 7) <= ROLE_16:
            narrow[0] |= mask
    if s.vvvv & ROLE_WRITE:
        written(s.vvvv, i.vvvv, False, &mask, zero)
    if s.opreg & ROLE_WRITE:
        written(s.opreg, insn_opreg(i),
                byte_high and (s.opreg & 7) == ROLE_8 and insn_opreg(i) >= 4, &mask, zero)
        if (s.opreg & 7) <= ROLE_16:
            narrow[0] |= mask
    return mask


cdef inline u32 named(u32 role, u32 reg) noexcept nogil:
    """Return `reg`, as a bit, if an operand with `role` reads it or keeps a part of it."""
    return <u32>1 << reg if role & ROLE_READ or 0 < (role & 7) <= ROLE_16 else 0


cdef u32 reads(Insn* i) noexcept nogil:
    cdef Shape* s = i.shape
    cdef u32 mask = s.implicit_read | named(s.reg, insn_reg(i)) | named(s.vvvv, i.vvvv) \
        | named(s.opreg, insn_opreg(i))
    if not s.modrm:
        return mask
    if i.modrm >= 0xC0:
        return mask | (<u32>1 << insn_rm(i) if s.kind == SHAPE_JMP_IND or s.kind == SHAPE_CALL_IND
                       else named(s.rm, insn_rm(i)))
    if insn_base(i) != NO_REG:
        mask |= <u32>1 << insn_base(i)
    if insn_index(i) != NO_REG:
        mask |= <u32>1 << insn_index(i)
    return mask


cdef inline u32 extended(Insn* i) noexcept nogil:
    """Return the register, as a bit, that MOVSX, MOVSXD or CDQE gives a 64-bit value."""
    if i.enc != ENC_LEGACY or not i.rex & 8 or i.prefixes & PFX_66:
        return 0
    if i.map == 0 and i.opcode == 0x98:
        return 1
    if (i.map == 0 and i.opcode == 0x63) or (i.map == 1 and (i.opcode & 0xFE) == 0xBE):
        return <u32>1 << insn_reg(i)
    return 0


cdef bint uses(Insn* i, Binding* x) noexcept nogil:
    if x.scale == HELD:
        return reads(i) >> x.base & 1
    if x.index == NO_REG and copies(i):
        return x.base == (insn_reg(i) if i.opcode == 0x89 else insn_rm(i))
    return (i.shape.modrm and i.modrm < 0xC0 and i.seg == SEG_NONE and not i.rip_relative
            and insn_base(i) == x.base
            and (x.index == NO_REG or (insn_index(i) == x.index and i.sib >> 6 == x.scale)))


cdef u32 next_use(Builder* b, Binding* x) noexcept nogil:
    cdef u32 k = <u32>(b.now - &b.insns[0]), n, mask, ignored = 0
    cdef Insn* i
    for n in range(AHEAD):
        k += 1
        if k >= b.count:
            if not b.loops:
                return NEVER
            k = 0
        i = &b.insns[k]
        if i.shape.kind == SHAPE_OP and i.shape.op != OP_NONE:
            return NEVER
        if uses(i, x):
            return n
        mask = writes(i, &ignored, &ignored)
        if (mask >> x.base | (mask >> x.index if x.index != NO_REG else 0)) & 1 \
                and (x.scale == HELD or not steps(i)):
            return NEVER
    return NEVER


cdef inline u32 need_of(Builder* b, Binding* x) noexcept nogil:
    """Return the distance to the next use of a binding; a copy's counts as the greatest.

    Without a copy the instruction takes its operand from memory, which costs less than a lookup,
    unless each pass of a loop waits for what the last one stored.
    """
    cdef u32 n = next_use(b, x)
    return n if n >= NEVER or x.scale != HELD or b.carried >> x.base & 1 else NEVER - 1


cdef u32 window_for(Builder* b, Binding* what) noexcept nogil:
    cdef u32 used[WINDOWS]
    cdef u32 k, n, chosen = 0
    for k in range(WINDOWS):
        used[k] = 0 if b.pinned >> (WINDOW + k) & 1 else UNUSED
    for k in range(b.n_bindings):
        n = need_of(b, &b.bindings[k])
        if n < used[b.bindings[k].window - WINDOW]:
            used[b.bindings[k].window - WINDOW] = n
    for k in range(1, WINDOWS):
        if used[k] > used[chosen]:
            chosen = k
    if used[chosen] >= NEVER or (what != NULL and need_of(b, what) < used[chosen]):
        return WINDOW + chosen
    return 0


cdef void end_window(Builder* b, u32 window) noexcept nogil:
    cdef u32 k = 0
    while k < b.n_bindings:
        if b.bindings[k].window == window:
            b.n_bindings -= 1
            b.bindings[k] = b.bindings[b.n_bindings]
            continue
        k += 1


cdef inline bint loads(Insn* i) noexcept nogil:
    """MOV or CMOVcc r64, m64."""
    return (i.enc == ENC_LEGACY and i.modrm < 0xC0 and i.rex & 8 and not i.prefixes & PFX_66
            and ((i.map == 0 and i.opcode == 0x8B) or (i.map == 1 and (i.opcode & 0xF0) == 0x40)))


cdef inline bint copies_maybe(Insn* i) noexcept nogil:
    """CMOVcc r64, r64."""
    return (i.enc == ENC_LEGACY and i.map == 1 and (i.opcode & 0xF0) == 0x40 and i.modrm >= 0xC0
            and i.rex & 8 and not i.prefixes & PFX_66)


cdef u32 loaded_after(Insn* i, u32 loaded, u32 mask) noexcept nogil:
    """Return the registers that hold values from memory after `i`, given those before it."""
    cdef u32 dst, src
    if loads(i):
        return loaded | <u32>1 << insn_reg(i)
    if copies(i) or copies_maybe(i):
        dst = insn_rm(i) if i.opcode == 0x89 and i.map == 0 else insn_reg(i)
        src = insn_reg(i) if i.opcode == 0x89 and i.map == 0 else insn_rm(i)
        if copies(i):
            loaded &= ~(<u32>1 << dst)
        return loaded | (loaded >> src & 1) << dst
    return loaded if steps(i) else loaded & ~mask


cdef void find_loop(Builder* b) noexcept nogil:
    cdef u32 k, loaded = 0, ignored = 0, mask
    cdef Insn* i
    b.loops = b.chained = b.carried = 0
    for k in range(b.count):
        i = &b.insns[k]
        if (i.shape.kind == SHAPE_JMP or i.shape.kind == SHAPE_JCC) \
                and <i64>i.offset + i.length + i.imm == 0:
            # What this pass has loaded, the next one uses.
            b.loops = 1
            b.chained |= loaded
        mask = writes(i, &ignored, &ignored)
        b.carried |= mask & reads(i)
        loaded = loaded_after(i, loaded, mask)
    if not b.loops:
        b.carried = 0


cdef void retire(Builder* b, Insn* i) noexcept nogil:
    cdef Shape* s = i.shape
    cdef u32 zero = 0, narrow = 0, mask = writes(i, &zero, &narrow)
    cdef i64 step
    b.chained = loaded_after(i, b.chained, mask)
    b.zero_extended = (b.zero_extended & ~(mask & ~narrow)) | zero
    if s.implicit_write:
        b.zero_extended &= ~<u32>s.implicit_write
    b.sign_extended = (b.sign_extended & ~mask) | extended(i)
    end_copies(b, mask)
    note_results(b)
    if b.n_bindings == 0 or mask == 0:
        return
    if steps(i):
        step = i.imm if i.opcode != 0xFF else 1
        if -SMALL_MOVE <= step <= SMALL_MOVE:
            step_bindings(b, insn_rm(i), step)
            return
    derive(b, i, mask)


cdef void keep_for_loop(Builder* b) noexcept nogil:
    """Record what holds at the start of a loop, when its body jumps back there.

    A binding that moves in the body is kept only if the body performs an access through it: then
    the distance between two accesses is at most the move of one pass.
    """
    cdef u32 k
    cdef Binding* x
    b.n_loop = 0
    for k in range(b.n_bindings):
        x = &b.bindings[k]
        if x.accessed or x.moved == 0:
            b.loop[b.n_loop] = x[0]
            b.loop[b.n_loop].accessed = 0
            b.n_loop += 1
    b.loop_zero = b.zero_extended


cdef bint loop_holds(Builder* b) noexcept nogil:
    """Whether a pass that began with the recorded bindings ends with them."""
    cdef u32 k
    cdef Binding* x
    for k in range(b.n_loop):
        x = find_binding(b, &b.loop[k])
        if (x == NULL or x.window != b.loop[k].window
                or (not x.accessed and x.moved != b.loop[k].moved)):
            return False
    return b.loop_zero & ~b.zero_extended == 0
