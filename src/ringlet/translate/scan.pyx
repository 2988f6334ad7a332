"""Decoding of a fragment's instructions, and which status flags are live before each.

What the result depends on is recorded for kept translations (`ringlet.translate.kept`).
"""
from ringlet.core.state cimport (u8, u16, u32, u64, i16, i64, KEY_NM, KEY_NOSSE, KEY_NOAVX,
                                 KEY_MODE64, KEY_STEP, KEY_EM)
from ringlet.core.ops cimport *
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *
from ringlet.translate.builder cimport *
from ringlet.translate.device cimport DeviceMove, device_move
from ringlet.translate.flow cimport ends_fragment

cdef enum:
    PEEK = 12             # number of later instructions to inspect for flag liveness
    TOO_LONG = 16         # length recorded for an instruction of more than 15 bytes


cdef u32 unit_op(Builder* b, Insn* i) noexcept nogil:
    """Return OP_NM or OP_UD if the guest has disabled the instruction's unit, else OP_NONE."""
    cdef u32 unit = i.shape.unit
    if unit == UNIT_NONE or not b.key & (KEY_NM | KEY_NOSSE | KEY_NOAVX):
        return OP_NONE
    if unit == UNIT_WAIT:
        # CR0.MP and CR0.TS decide whether FWAIT raises #NM or continues.
        return OP_NM if b.key & KEY_NM else OP_NONE
    if unit == UNIT_SSE and b.key & (KEY_NOSSE | KEY_EM):
        return OP_UD
    if unit == UNIT_AVX and b.key & KEY_NOAVX:
        return OP_UD
    return OP_NM if b.key & KEY_NM else OP_NONE


cdef inline u16 transfer(Insn* i, u16 live) noexcept nogil:
    """Return the live flags before `i`, given those after it."""
    return (live & ~i.shape.flags_kill & STATUS) | (i.shape.flags_read & STATUS)


cdef void note_bytes(Builder* b, i64 start, i64 end) noexcept nogil:
    """Record that the translation depends on these bytes."""
    cdef u32 k
    for k in range(b.n_exact):
        if b.exact[k].start <= start and end <= b.exact[k].end:
            return
    if b.n_exact and b.exact[b.n_exact - 1].end == start:
        b.exact[b.n_exact - 1].end = <i16>end
    elif b.n_exact < MAX_EXACT:
        b.exact[b.n_exact].start = <i16>start
        b.exact[b.n_exact].end = <i16>end
        b.n_exact += 1
    else:
        b.overflowed = 1


cdef void note_far(Builder* b, i64 field) noexcept nogil:
    """Record that the translation depends on a field being far."""
    if b.n_free < MAX_FREE:
        b.free[b.n_free] = <i16>field
        b.n_free += 1
    else:
        b.overflowed = 1


cdef void note_insn(Builder* b, Insn* i, i64 at, u32 free) noexcept nogil:
    """Record a dependency on the instruction at `at`, except the values of its fields `free`."""
    cdef i64 imm = at + i.imm_at, start = at
    if free & (FREE_DISP | FREE_RIP):
        note_bytes(b, start, imm - 4)
        start = imm
    if free & FREE_IMM:
        if start < imm:
            note_bytes(b, start, imm)
        start = imm + 4
    if start < at + i.length:
        note_bytes(b, start, at + i.length)


cdef void note_peek(Builder* b, Insn* i, i64 at) noexcept nogil:
    """Record a dependency on an instruction that was inspected for flags, not its operands."""
    cdef u32 free = 0, kind = i.shape.kind
    if 0 <= at < 4096 and b.starts[at >> 6] >> (at & 63) & 1:
        return
    if i.disp_size == 4:
        free |= FREE_DISP
    if i.shape.imm == 4 and not SHAPE_JMP <= kind <= SHAPE_LOOP:
        free |= FREE_IMM
    note_insn(b, i, at, free)


cdef void note_fragment(Builder* b) noexcept nogil:
    cdef u32 k, free
    cdef Insn* i = NULL
    cdef u32 end = 0
    for k in range(b.scanned):
        i = &b.insns[k]
        # The code of a checked fragment contains all guest bytes.
        free = i.free if k < b.count and not i.free & FREE_NONE and not b.checked else 0
        if free & FREE_DISP:
            note_far(b, <i64>i.offset + i.imm_at - 4)
        if free & FREE_IMM:
            note_far(b, <i64>i.offset + i.imm_at)
        note_insn(b, i, i.offset, free)
        end = i.offset + i.length
    if end < b.scan_end:
        note_bytes(b, end, b.scan_end)


cdef u16 peek_live(Builder* b, i64 at) noexcept nogil:
    """Return the status flags that code from offset `at` may read before it writes them."""
    cdef Insn i
    cdef u16 live = 0, pending = STATUS
    cdef int r
    cdef u32 _
    if b.checked:
        # A checked fragment is not told of changes to bytes behind its end.
        return STATUS
    for _ in range(PEEK):
        if at < -<i64>b.before or at >= b.avail:
            break
        r = decode(b.shapes, b.code + at, <u32>(b.avail - at), &i)
        if r == DECODE_LEARN and at >= 0:
            # The output must not depend on which shapes this run has already learned.
            b.learn_at = <u32>at
            b.unlearned = 1
        if r != DECODE_OK:
            if b.noting:
                note_bytes(b, at, at + 15 if at + 15 < b.avail else b.avail)
            break
        if b.noting:
            note_peek(b, &i, at)
        live |= i.shape.flags_read & pending
        if i.shape.kind == SHAPE_OP:
            break
        pending &= ~i.shape.flags_kill
        if pending == 0:
            return live
        if i.shape.kind == SHAPE_JMP:
            at += i.length + i.imm
            continue
        if SHAPE_JMP < i.shape.kind <= SHAPE_LOOP:
            break
        at += i.length
    return live | pending


cdef bint stays(Insn* i) noexcept nogil:
    """Whether decoding continues with the next instruction."""
    cdef u32 kind = i.shape.kind
    if kind == SHAPE_OP:
        return not ends_fragment(i.shape.op)
    return not (kind == SHAPE_JMP or kind == SHAPE_CALL or kind == SHAPE_JMP_IND
                or kind == SHAPE_CALL_IND or kind == SHAPE_RET or kind == SHAPE_LOOP
                or kind == SHAPE_INVALID)


cdef bint may_store(Builder* b, Insn* i) noexcept nogil:
    """Whether the instruction, or the operation that replaces it, may write memory."""
    cdef u32 kind = i.shape.kind
    if kind == SHAPE_OP:
        return i.shape.op != OP_NONE
    if unit_op(b, i) != OP_NONE or kind >= SHAPE_STRING and kind != SHAPE_ADDRESS:
        return True
    return i.shape.stack == STACK_PUSH or (i.modrm < 0xC0 and i.shape.mem & MEM_WRITE)


cdef inline bint stores_repeatedly(Insn* i) noexcept nogil:
    """Whether a repetition (REP MOVS, REP STOS) may change the instruction before the next one."""
    return (i.shape.kind == SHAPE_STRING and i.prefixes & (PFX_REP | PFX_REPNE)
            and ((i.opcode & 0xFE) == 0xA4 or (i.opcode & 0xFE) == 0xAA))


cdef bint meets_device(Builder* b, Insn* i, u32 at) noexcept nogil:
    """Whether the instruction at offset `at` of the fragment is to leave for a device's access.

    A single step is a fragment of its own, which faults; so its traps and watchpoints are exact.
    """
    cdef DeviceMove move
    cdef u64 offset = (b.linear + at) & 0xFFF
    return (b.has_devices and not b.key & KEY_STEP
            and b.devices[offset >> 6] >> (offset & 63) & 1 and device_move(i, &move))


cdef int scan(Builder* b) noexcept nogil:
    """Decode the fragment's instructions."""
    cdef u32 at = 0, k
    cdef int r
    cdef Insn* i
    b.count = b.scan_end = b.n_exact = b.n_free = b.overflowed = b.met_devices = 0
    if b.noting:
        for k in range(64):
            b.starts[k] = 0
    while b.count < b.limit:
        i = &b.insns[b.count]
        r = decode(b.shapes, b.code + at, b.avail - at, i)
        i.offset = <u16>at
        if r == DECODE_MORE:
            if b.count == 0:
                return TRANSLATE_CROSS
            b.scan_end = b.avail
            break
        if r == DECODE_LEARN:
            if b.count:
                # End the fragment before an instruction whose shape is not known.
                b.learn_at = at
                return TRANSLATE_LEARN
            b.learn_at = 0
            return TRANSLATE_LEARN
        if r == DECODE_LONG:
            # The instruction is longer than 15 bytes; the virtual processor raises #GP.
            i.shape = &b.shapes.shapes[SHAPE_OF_NONE]
            i.length = TOO_LONG
            i.device = 0
            b.count += 1
            at += 15
            b.overflowed = 1
            break
        if b.checked and not (b.key & KEY_STEP or b.once) and stores_repeatedly(i):
            if b.count == 0:
                return TRANSLATE_PROTECT
            break
        if b.noting:
            b.starts[at >> 6] |= <u64>1 << (at & 63)
        i.device = meets_device(b, i, at)
        b.met_devices |= i.device
        b.count += 1
        at += i.length
        if not stays(i) or (b.key & KEY_STEP) or at >= b.avail or (b.room and at >= b.room):
            break
        if b.checked and may_store(b, i):
            break
    b.guest_bytes = at
    b.scanned = b.count
    if b.scan_end < at:
        b.scan_end = at
    return TRANSLATE_OK


cdef void liveness(Builder* b) noexcept nogil:
    cdef i64 k
    cdef Insn* i = &b.insns[b.count - 1]
    cdef u16 live
    cdef i64 after = <i64>i.offset + i.length
    if b.key & KEY_STEP or not b.speculate:
        # The flags must be exact at every fault.
        for k in range(<i64>b.count):
            b.insns[k].live = STATUS
        b.live_out = STATUS
        return
    if i.shape.kind == SHAPE_JMP or i.shape.kind == SHAPE_CALL:
        live = peek_live(b, after + i.imm)
    elif stays(i):
        live = peek_live(b, after)
    else:
        live = STATUS
    b.live_out = live
    for k in range(<i64>b.count - 1, -1, -1):
        i = &b.insns[k]
        if i.shape.kind == SHAPE_JCC:
            live |= peek_live(b, <i64>i.offset + i.length + i.imm)
        live = STATUS if i.shape.kind == SHAPE_OP or i.device else transfer(i, live)
        i.live = live


cdef int begin_fragment(Builder* b) noexcept nogil:
    cdef int r
    b.small = (<i64>(b.rip << 32) >> 32) == <i64>b.rip
    b.n = b.n_relocs = b.n_cold = b.n_map = b.n_links = b.n_ops = 0
    b.full = b.n_bindings = b.sp_moved = b.loop_at = b.in_loop = 0
    b.zero_extended = b.sign_extended = b.results = 0
    b.thunk = b.indirect = 0xFFFFFFFF
    r = scan(b)
    if r != TRANSLATE_OK or not b.key & KEY_MODE64:
        # In 16- and 32-bit code the flags are exact everywhere.
        return r
    b.unlearned = 0
    liveness(b)
    return TRANSLATE_LEARN if b.unlearned else TRANSLATE_OK


cdef bint cut_after(Builder* b, u32 last) noexcept nogil:
    if last >= b.count - 1:
        return False
    b.count = last + 1
    b.guest_bytes = b.insns[last].offset + b.insns[last].length
    if not b.checked:
        return False
    # The check at its start compares bytes that are no longer part of the fragment.
    b.limit = b.count
    return True
