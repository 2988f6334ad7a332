"""Translation of one fragment: decode, compute flag liveness backwards, emit forwards.

The translation is a pure function.  Its input (bytes, linear address, key, shapes) and its output,
with the relocations needed to install it anywhere, are all in the `Builder`.
"""
from ringlet.core.state cimport (u8, u16, u32, i64, KEY_CPL, BLOCK_SLOTS_K, BLOCK_NSLOTS_K,
                                 BLOCK_SLOTS_U, BLOCK_NSLOTS_U)
from ringlet.core.ops cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *
from ringlet.translate.builder cimport *
from ringlet.translate.bindings cimport *
from ringlet.translate.device cimport emit_device
from ringlet.translate.lea cimport emit_lea
from ringlet.translate.plain cimport emit_plain
from ringlet.translate.special cimport *
from ringlet.translate.flow cimport *
from ringlet.translate.inline cimport emit_inline_op
from ringlet.translate.operands cimport emit_cold
from ringlet.translate.scan cimport (
    STATUS, TRANSLATE_OK, begin_fragment, cut_after, note_fragment, unit_op)

cdef u32 emit_insn(Builder* b, Insn* i, u32 live_after) noexcept nogil:
    """Emit one instruction; 0 if the fragment ends with it."""
    cdef u32 kind = i.shape.kind, op
    cdef u32 dead = not i.live & STATUS
    cdef int done = 1
    b.now = i
    b.current = i.offset
    b.pinned = b.results = 0
    b.maybe = i.shape.mem & MEM_MAYBE
    op = unit_op(b, i)
    if op != OP_NONE:
        emit_op(b, i, op)
        return i.shape.unit == UNIT_WAIT and not b.checked
    if i.device:
        emit_device(b, i)
        return not b.checked
    if kind == SHAPE_OP:
        if i.shape.op == OP_NONE:
            return 1
        if emit_inline_op(b, i) or (is_moffs(i) and emit_moffs(b, i)):
            retire(b, i)
            return 1
        emit_op(b, i, i.shape.op)
        if b.checked:
            return 0
        if not ends_fragment(i.shape.op):
            return 1
        if b.n_ops and b.ops[b.n_ops - 1].resume == b.n:
            # The operation may have had no effect, and resume here.
            emit_jump(b, <i64>i.offset + i.length)
        return 0
    if kind == SHAPE_INVALID:
        emit_op(b, i, OP_UD)
        return 0
    if SHAPE_JMP <= kind <= SHAPE_LOOP:
        return emit_branch(b, i, dead)
    if kind == SHAPE_ADDRESS:
        done = emit_lea(b, i)
    elif kind == SHAPE_STRING:
        done = emit_string(b, i)
    elif kind == SHAPE_BITS:
        done = emit_bits(b, i, dead)
    elif kind == SHAPE_LEAVE:
        done = emit_leave(b, i)
    elif kind == SHAPE_XLAT:
        done = emit_xlat(b, i, dead)
    elif kind == SHAPE_GATHER:
        done = emit_gather(b, i, dead)
    elif kind == SHAPE_MASKMOV:
        done = 0
    else:
        done = emit_plain(b, i, dead, live_after)
    if not done:
        emit_op(b, i, OP_EMULATE)
        return not b.checked
    retire(b, i)
    return 1


cdef void emit_loop_copy(Builder* b) noexcept nogil:
    """Emit a second copy of a loop's body, in which the bindings of the first pass hold.

    The copy's last branch leads back to the copy if the bindings also hold at its end, otherwise to
    the first body, which checks them again.
    """
    cdef u32 k = 0, head, last, n_links = 0
    cdef Insn* i
    cdef u16 after
    for k in range(b.n_loop):
        b.bindings[k] = b.loop[k]
    b.n_bindings = b.n_loop
    b.zero_extended = b.loop_zero
    b.sign_extended = 0
    b.sp_moved = 0
    b.in_loop = 1
    head = b.n
    last = b.loop_last
    patch_rel32(b, b.loop_at, head)
    for k in range(last + 1):
        i = &b.insns[k]
        map_here(b, i.offset)
        after = b.insns[k + 1].live if k + 1 < b.count else b.live_out
        n_links = b.n_links
        emit_insn(b, i, after)
    if b.n_links == n_links + 1 and loop_holds(b):
        # The last link is the branch back to the start.
        b.links[n_links].home = head
    if b.insns[last].shape.kind == SHAPE_JCC:
        map_here(b, b.insns[last].offset + b.insns[last].length)
        emit_jump(b, b.insns[last].offset + b.insns[last].length)


cdef int translate_fragment(Builder* b, bint indirect) noexcept nogil:
    cdef u32 k = 0, more = 1, looped, user = (b.key & KEY_CPL) == 3
    cdef int r
    cdef Insn* i
    cdef u16 after
    b.slots = BLOCK_SLOTS_U if user else BLOCK_SLOTS_K
    b.nslots = BLOCK_NSLOTS_U if user else BLOCK_NSLOTS_K
    r = begin_fragment(b)
    if r != TRANSLATE_OK:
        return r
    find_loop(b)
    map_here(b, 0)
    if indirect:
        emit_thunk(b)
    b.body = b.n
    if b.checked:
        map_here(b, 0)
        emit_check(b)
    for k in range(b.count):
        i = &b.insns[k]
        i.host = <u16>b.n
        map_here(b, i.offset)
        after = b.insns[k + 1].live if k + 1 < b.count else b.live_out
        looped = b.loop_at
        more = emit_insn(b, i, after)
        if b.loop_at != looped:
            b.loop_last = k
        if not more:
            break
        if b.full or b.n > FRAGMENT_FULL // 2 or b.n_map > MAX_MAP - 2 * MAX_INSNS:
            break
    if cut_after(b, k):
        return translate_fragment(b, indirect)
    if more:
        map_here(b, b.guest_bytes)
        emit_jump(b, b.guest_bytes)
    if b.loop_at:
        emit_loop_copy(b)
    b.tail = b.n
    # Of the code from here on, only the missed predictions belong to a guest instruction.
    emit_cold(b)
    if b.checked:
        emit_stale(b)
    map_here(b, b.guest_bytes)
    lead_home(b)
    if b.noting:
        note_fragment(b)
    return TRANSLATE_OK


cdef Template template_of(Builder* b) noexcept nogil:
    """Return the finished translation for the code cache; it points into the builder."""
    cdef Template t
    t.linear = b.linear
    t.rip = b.rip
    t.key = b.key
    t.guest_bytes = b.guest_bytes
    t.insns = b.count
    t.thunk = b.thunk
    t.body = b.body
    t.indirect = b.indirect
    t.size = b.n
    t.n_relocs = b.n_relocs
    t.n_map = b.n_map
    t.n_links = b.n_links
    t.n_ops = b.n_ops
    t.code = b.out
    t.source = b.source
    t.bytes = b.code
    t.relocs = b.relocs
    t.map = b.map
    t.links = b.links
    t.ops = b.ops
    return t
