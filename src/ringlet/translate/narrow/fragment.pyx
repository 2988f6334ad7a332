"""Translation of one fragment of 16- or 32-bit code, of whatever mode.

It shares decoding, templates and exits with 64-bit code, and the contract with the cache:
every access to memory comes before the instruction changes anything (docs/adr/0028).
"""
from ringlet.core.state cimport u16, u32, i64
from ringlet.core.ops cimport OP_EMULATE, OP_NONE, OP_UD
from ringlet.translate.builder cimport *
from ringlet.translate.flow cimport (
    emit_check, emit_jump, emit_stale, ends_fragment, lead_home)
from ringlet.translate.inline cimport emit_inline_op
from ringlet.translate.insn cimport *
from ringlet.translate.narrow.branch cimport (
    NO_CODE, emit_narrow_branch, emit_narrow_device, emit_narrow_op, emit_narrow_thunk)
from ringlet.translate.narrow.far cimport emit_far, emit_flags
from ringlet.translate.narrow.plain cimport emit_narrow_plain, emit_reencoded
from ringlet.translate.narrow.selectors cimport emit_selector
from ringlet.translate.scan cimport (
    TRANSLATE_OK, begin_fragment, cut_after, note_fragment, unit_op)
from ringlet.translate.shape cimport *


cdef int leave_with(Builder* b, Insn* i, u32 op) noexcept nogil:
    """Leave for `op`; 0 if the fragment ends with it."""
    emit_narrow_op(b, i, op)
    if b.checked:
        return 0
    if not ends_fragment(op):
        return 1
    if b.n_ops and b.ops[b.n_ops - 1].resume == b.n:
        # The operation may have had no effect, and resume here.
        emit_jump(b, <i64>i.offset + i.length)
    return 0


cdef int emit_insn(Builder* b, Insn* i) noexcept nogil:
    """Emit one instruction; 0 if the fragment ends with it."""
    cdef u32 kind = i.shape.kind, op
    cdef int r
    b.now = i
    b.current = i.offset
    if i.device:
        emit_narrow_device(b, i)
        return not b.checked
    op = unit_op(b, i)
    if op != OP_NONE:
        emit_narrow_op(b, i, op)
        return i.shape.unit == UNIT_WAIT and not b.checked
    if kind == SHAPE_OP:
        if i.shape.op == OP_NONE \
                or (not b.watched and (emit_inline_op(b, i) or emit_selector(b, i)
                                       or emit_flags(b, i))) \
                or (i.shape.op == OP_EMULATE and emit_reencoded(b, i)):
            return 1
        if not b.watched and emit_far(b, i):
            return 0
        return leave_with(b, i, i.shape.op)
    if kind == SHAPE_INVALID:
        emit_narrow_op(b, i, OP_UD)
        return 0
    if SHAPE_JMP <= kind <= SHAPE_LOOP:
        r = emit_narrow_branch(b, i)
        if r == NO_CODE:
            emit_narrow_op(b, i, OP_EMULATE)
            if not b.checked:
                # Where it does not branch, the emulator comes back here.
                emit_jump(b, <i64>i.offset + i.length)
            return 0
        return r
    if not emit_narrow_plain(b, i):
        emit_narrow_op(b, i, OP_EMULATE)
        return not b.checked
    return 1


cdef int translate_narrow(Builder* b, bint indirect) noexcept nogil:
    cdef u32 k = 0, more = 1
    cdef int r
    cdef Insn* i
    r = begin_fragment(b)
    if r != TRANSLATE_OK:
        return r
    b.al_in_r9 = 0
    map_here(b, 0)
    if indirect:
        emit_narrow_thunk(b)
    b.body = b.n
    if b.checked:
        map_here(b, 0)
        emit_check(b)
    for k in range(b.count):
        i = &b.insns[k]
        i.host = <u16>b.n
        map_here(b, i.offset)
        more = emit_insn(b, i)
        if not more or b.full or b.n > FRAGMENT_FULL or b.n_map > MAX_MAP - 2 * MAX_INSNS:
            break
    if cut_after(b, k):
        return translate_narrow(b, indirect)
    if more:
        map_here(b, b.guest_bytes)
        emit_jump(b, b.guest_bytes)
    b.tail = b.n
    if b.checked:
        emit_stale(b)
    map_here(b, b.guest_bytes)
    lead_home(b)
    if b.noting:
        note_fragment(b)
    return TRANSLATE_OK
