"""Screening of the bytes that a direct process may execute.

Most sensitive instructions trap at CPL 3.  The others read or change what belongs to the host's
processor, and the host performs them without a word.  A page that holds one runs translated.  They
are of two kinds.

*Anywhere*: those that programs use.  A page with their bytes at any offset is refused, wherever its
instructions begin.  Less than one page of code in a hundred is refused without need.

Some of these sequences are common inside other instructions, and may stand there.  SHL EAX, 15 and
ADD EAX, EDX have the bytes of XGETBV, and CLWB is XSAVEOPT with a prefix.  Such a one passes as a
part of other instructions only if decoding from each of 15 successive bytes before it, and from
where branches on the way lead, steps over its 0F, with only instructions in a row, none of them the
sensitive one itself.  If these bytes are code, an instruction begins at one of the 15, so that code
which runs into the sequence is seen.

XSAVE, XSAVEC and XRSTOR pass behind a constant mask of x87, SSE and AVX state.  On ld.so's page,
where each first call of a function saves and restores what the processor has, a copy has such a
mask.

*In sequence*: those that read the descriptor tables, which only programs that look for a hypervisor
use, and SYSENTER.  Their bytes are common inside other instructions: half of all pages have them.
The page is decoded from each of its first bytes.  Such chains soon meet at the instructions that
the program has, and a page is refused if one of these is sensitive.  Where they meet bytes that are
no instruction, as in data, the next ones do not count.  For a page's first bytes, chains begin on
the page before.  A jump into the middle of an instruction can still reach one.  It then
reads what any program of the host can read.
"""
from ringlet.core.prefixes cimport is_prefix
from ringlet.core.state cimport i32, i64, u8, u32, u64
from ringlet.direct.instructions cimport (
    ANYWHERE, IN_SEQUENCE, NOTHING, PAGE, PLAIN, classify, instruction, is_whole, repeats)

cdef enum:
    STARTS = 15              # an instruction from the page before ends within as many bytes
    SEAM = 240               # bytes of a page from which to decode to its end, and some beyond
    SEAM_END = 320
    TRUSTED = 24             # instructions in a row, after which bytes are taken for code again
    PARTS = 8                # instructions in a row before a sequence that is a part of others
    WINDOW = BEFORE + STARTS

# Where decoding is to meet, and what is known on the way.
cdef struct Meeting:
    u32 begin
    u32 at
    bint part                # it has to step over this offset
    u8 visits[WINDOW]        # how often decoding came to each offset from the beginning


cdef void chains_begin(Chains* w) noexcept nogil:
    cdef u32 i
    for i in range(64):
        w.seen[i] = 0
    w.start = w.next = 0
    w.row = TRUSTED


cdef bint chains_next(Chains* w, const u8* code, u32 size, u32 last, bint cpuid) noexcept nogil:
    """Go on to the next instruction that begins before `last`; False: there is none."""
    while w.next >= last or w.seen[w.next >> 6] >> (w.next & 63) & 1:
        w.start += 1
        if w.start >= STARTS:
            return False
        w.next = w.start
        w.row = TRUSTED
    w.at = w.next
    w.seen[w.at >> 6] |= <u64>1 << (w.at & 63)
    w.length = instruction(code, w.at, size, cpuid, &w.kind)
    w.next += w.length
    w.trusted = w.row >= TRUSTED
    w.row = 1 if w.kind == NOTHING else w.row + 1
    return True


cdef bint sequence_clean(const u8* code, u32 size, u32 first, u32 last,
                         bint cpuid) noexcept nogil:
    """Decode from each of the first bytes of at most a page; False: an instruction that begins
    between two offsets is sensitive."""
    cdef Chains walk
    chains_begin(&walk)
    while chains_next(&walk, code, size, last, cpuid):
        if walk.kind == IN_SEQUENCE and walk.trusted and walk.at >= first:
            return False
    return True


cdef inline bint begins_function(const u8* p) noexcept nogil:
    """Tell whether these bytes are PUSH RBP; MOV RBP, RSP; and the prefix of CLWB, as in HotSpot's
    stub, before which are tables."""
    return p[0] == 0x55 and p[1] == 0x48 and p[4] == 0x66 and (
        (p[2] == 0x8B and p[3] == 0xEC) or (p[2] == 0x89 and p[3] == 0xE5))


cdef i64 target_of(const u8* code, u32 at, u32 end) noexcept nogil:
    """Return where the direct branch between two offsets leads, or -1 if it is none."""
    cdef u32 i = at
    while is_prefix(code[i]):
        i += 1
    if code[i] & 0xF0 == 0x70 or code[i] & 0xFC == 0xE0 or code[i] == 0xEB:
        return <i64>end + <signed char>code[end - 1]
    if code[i] & 0xFE == 0xE8 or (code[i] == 0x0F and code[i + 1] & 0xF0 == 0x80):
        return <i64>end + <i32>(code[end - 4] | <u32>code[end - 3] << 8 | <u32>code[end - 2] << 16
                                | <u32>code[end - 1] << 24)
    return -1


cdef bint follow(const u8* code, u32 size, u32 start, u32 row, Meeting* m,
                 bint cpuid) noexcept nogil:
    """Decode from an offset on.  Tell whether that comes to the meeting, or steps over it if it is
    to be a part, with enough instructions in a row, of which there are `row` before."""
    cdef u32 next = start, length = 0, kind = PLAIN
    while next < m.at:
        m.visits[next - m.begin] += 1
        length = instruction(code, next, size, cpuid, &kind)
        next += length
        row = 0 if kind == NOTHING else row + 1
    if not m.part:
        return next == m.at
    # The last instruction can be the sensitive one, with prefixes, or too long to be one.
    return next != m.at and kind != ANYWHERE and length <= STARTS and row >= PARTS


cdef bint all_meet(const u8* code, u32 size, u32 begin, u32 at, bint part,
                   bint cpuid) noexcept nogil:
    """Tell whether decoding from any of `STARTS` offsets comes to another offset, or (`part`)
    always steps over it, and so does decoding from where branches lead at which all have met."""
    cdef Meeting m
    cdef u32 i, kind, end
    cdef i64 target
    m.begin = begin
    m.at = at
    m.part = part
    for i in range(WINDOW):
        m.visits[i] = 0
    for i in range(begin, begin + STARTS):
        if not follow(code, size, i, 0, &m, cpuid):
            return False
    for i in range(begin, at):
        if m.visits[i - begin] < STARTS:
            continue
        end = i + instruction(code, i, size, cpuid, &kind)
        if kind == NOTHING or end > size:
            continue
        target = target_of(code, i, end)
        if begin <= target <= at and not (target < at and m.visits[target - begin] >= STARTS) \
                and not follow(code, size, <u32>target, PARTS, &m, cpuid):
            return False
    return True


cdef bint is_part(const u8* page, u32 at, bint cpuid) noexcept nogil:
    """Tell whether the sensitive bytes at an offset are a part of other instructions, wherever
    decoding begins before them."""
    if at < STARTS:
        return False
    if page[at + 1] == 0xAE and begins_function(page + at - 5):
        return True
    return all_meet(page, PAGE, at - BEFORE if at > BEFORE else 0, at, True, cpuid)


cdef bint all_reach(const u8* before, const u8* page, u32 at, bint cpuid) noexcept nogil:
    cdef u8 joined[2 * BEFORE + STARTS]
    cdef u32 i
    if at >= BEFORE or before == NULL:
        return all_meet(page, PAGE, at - BEFORE if at > BEFORE else 0, at, False, cpuid)
    for i in range(BEFORE):
        joined[i] = before[PAGE - BEFORE + i]
    for i in range(BEFORE + STARTS):
        joined[BEFORE + i] = page[i]
    return all_meet(joined, 2 * BEFORE + STARTS, at, BEFORE + at, False, cpuid)


cdef inline bint may_be_part(const u8* page, u32 at) noexcept nogil:
    """Tell whether the sensitive bytes at an offset are those of CPUID, XSAVE, XRSTOR, XSAVEOPT,
    XSAVEC, or of XGETBV and its kind, behind 0F 01."""
    return (page[at + 1] == 0x01 or page[at + 1] == 0xAE or page[at + 1] == 0xA2
            or (page[at + 1] == 0xC7 and at + 2 < PAGE and page[at + 2] < 0xC0))


cdef bint saves_on_stack(const u8* page, u32 at) noexcept nogil:
    """Tell whether XSAVE, XSAVEC or XRSTOR at an offset has an operand [RSP + displacement], as in
    ld.so.  Data do not have these four bytes by chance."""
    return (at + 3 < PAGE and page[at] == 0x0F and (page[at + 1] == 0xAE or page[at + 1] == 0xC7)
            and (page[at + 2] & 0x37) == 0x24 and page[at + 2] >= 0x40 and page[at + 2] < 0xC0
            and page[at + 3] == 0x24)


cdef u32 mask_of(const u8* page, u32 at) noexcept nogil:
    """Return the offset of the mask in EAX with which XSAVE, XSAVEC or XRSTOR at an offset saves on
    the stack, or 0: MOV EAX, mask; XOR EDX, EDX; MOV [RSP + displacement], RDX, repeated."""
    cdef const u8* p
    if not saves_on_stack(page, at):
        return 0
    while at >= 8 + 7:
        p = page + at
        if p[-8] == 0x48 and p[-7] == 0x89 and p[-6] == 0x94 and p[-5] == 0x24:
            at -= 8
        elif p[-7] == 0xB8 and p[-8] & 0xF1 != 0x41 and p[-2] == 0x31 and p[-1] == 0xD2:
            # Without REX.B, which makes it R8D, and no part of another instruction.
            return at - 6 if all_reach(NULL, page, at - 7, True) else 0
        else:
            return 0
    return 0


cdef inline bint saves_guest_state(const u8* page, u32 at) noexcept nogil:
    """Tell whether XSAVE, XSAVEC or XRSTOR at an offset is for x87, SSE and AVX state only."""
    cdef u32 mask = mask_of(page, at)
    return mask and page[mask] <= VECTORS and not (
        page[mask + 1] or page[mask + 2] or page[mask + 3])


cdef bint page_clean(const u8* page, bint cpuid) noexcept nogil:
    cdef u32 i, kind
    cdef bint suspect = False
    for i in range(PAGE - 1):
        if page[i] == 0x0F and (i < PAGE - 2 or is_whole(page[i + 1])):
            kind = classify(page[i + 1], page[i + 2] if i + 2 < PAGE else 0,
                            page[i + 1] == 0xC7 and repeats(page, i), cpuid)
            if kind == ANYWHERE and not saves_guest_state(page, i) \
                    and not (may_be_part(page, i) and is_part(page, i, cpuid)):
                return False
            suspect |= kind == IN_SEQUENCE
    return not suspect or sequence_clean(page, PAGE, MEETS, PAGE, cpuid)


cdef inline bint sequences(const u8* page, bint cpuid) noexcept nogil:
    """Tell whether an instruction that is refused in sequence may be among the first of a page."""
    cdef u32 i
    for i in range(MEETS):
        if page[i] == 0x0F and classify(page[i + 1], page[i + 2], False, cpuid) == IN_SEQUENCE:
            return True
    return False


cdef bint seam_clean(const u8* before, const u8* page, bint cpuid) noexcept nogil:
    cdef u8[SEAM_END] code
    cdef u32 i
    cdef u32 kind = PLAIN
    if before == NULL:
        return not sequences(page, cpuid) or sequence_clean(page, PAGE, 0, MEETS, cpuid)
    if before[PAGE - 1] == 0x0F:
        kind = classify(page[0], page[1], True, cpuid)
    elif before[PAGE - 2] == 0x0F:
        kind = classify(before[PAGE - 1], page[0], True, cpuid)
    if kind == ANYWHERE:
        return False
    if kind == PLAIN and not sequences(page, cpuid):
        return True
    for i in range(SEAM):
        code[i] = before[PAGE - SEAM + i]
    for i in range(SEAM_END - SEAM):
        code[SEAM + i] = page[i]
    return sequence_clean(code, SEAM_END, SEAM - STARTS, SEAM + MEETS, cpuid)


def clean(page: bytes, following: bytes = b"\x90" * PAGE, *, cpuid: bool = False) -> bool:
    """Tell whether code may run directly on a page, and on from there to the page that follows it.

    `cpuid` says whether CPUID needs translation, as where the host cannot make it fault.
    """
    if len(page) != PAGE or len(following) != PAGE:
        raise ValueError("a page has 4,096 bytes")
    return (page_clean(page, cpuid) and seam_clean(NULL, page, cpuid)
            and seam_clean(page, following, cpuid))
