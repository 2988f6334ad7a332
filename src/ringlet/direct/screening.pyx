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

Sources: SDM 2A 2 (formats), 2B-2D (opcodes), 3A 5.9 and AMD APM 3 3 (privileges).
"""
from ringlet.core.prefixes cimport is_prefix
from ringlet.core.state cimport i32, i64, u8, u32, u64

cdef enum:
    STARTS = 15              # an instruction from the page before ends within as many bytes
    SEAM = 240               # bytes of a page from which to decode to its end, and some beyond
    SEAM_END = 320
    # What follows an opcode.
    MODRM = 1
    IMM8 = 2
    IMM16 = 4
    IMM32 = 8                # 16 bits with an operand-size prefix
    OFFSET = 16              # of MOV from and to an address
    NEVER = 32               # no instruction in 64-bit mode
    TRUSTED = 24             # instructions in a row, after which bytes are taken for code again
    PARTS = 8                # instructions in a row before a sequence that is a part of others
    WINDOW = BEFORE + STARTS

# Where decoding is to meet, and what is known on the way.
cdef struct Meeting:
    u32 begin
    u32 at
    bint part                # it has to step over this offset
    u8 visits[WINDOW]        # how often decoding came to each offset from the beginning

cdef u8[2][256] FOLLOWS      # by opcode, of one byte and after 0F


cdef _fill():
    """Write down what follows each opcode (SDM 2D appendix A, tables A-2 and A-3)."""
    cdef u32 table, value, opcode, first, last
    rows = {
        (0, MODRM): "00-03 08-0b 10-13 18-1b 20-23 28-2b 30-33 38-3b 63 84-8f d0-d3 d8-df fe ff",
        (0, IMM8): "04 0c 14 1c 24 2c 34 3c 6a 70-7f a8 b0-b7 cd e0-e7 eb",
        (0, IMM32): "05 0d 15 1d 25 2d 35 3d 68 a9 b8-bf e8 e9",
        (0, MODRM | IMM8): "6b 80 83 c0 c1 c6 f6",
        (0, MODRM | IMM32): "69 81 c7 f7",
        (0, IMM16): "c2 ca",
        (0, IMM16 | IMM8): "c8",
        (0, OFFSET): "a0-a3",
        (0, NEVER): "06 07 0e 16 17 1e 1f 27 2f 37 3f 60 61 82 9a ce d4-d6 ea",
        (1, MODRM): "00-03 0d 10-1f 28-2f 40-6f 74-76 78 79 7c-7f 90-9f a3 a5 ab ad-b9 bb-c1 c3 c7 "
                    "d0-ff",
        (1, MODRM | IMM8): "0f 70-73 a4 ac ba c2 c4-c6",
        (1, IMM32): "80-8f",
        (1, IMM8): "20-23",          # ModRM always names registers
        (1, NEVER): "04 0a 0c 24-27 36 39 3b-3f 7a 7b a6 a7",
    }
    for (table, value), text in rows.items():
        for part in text.split():
            low, _, high = part.partition("-")
            first = int(low, 16)
            last = int(high or low, 16)
            for opcode in range(first, last + 1):
                FOLLOWS[table][opcode] = value


_fill()


cdef inline u32 group_7(u8 modrm) noexcept nogil:
    """Classify 0F 01."""
    cdef u8 reg = modrm >> 3 & 7
    if reg == 4:
        return IN_SEQUENCE                       # SMSW
    if modrm < 0xC0:
        return IN_SEQUENCE if reg <= 1 else PLAIN    # SGDT, SIDT
    # VMCALL, XGETBV, VMFUNC, ENCLU, VMMCALL, RDPKRU, WRPKRU, RDTSCP, MONITORX, MWAITX, RDPRU
    if (modrm == 0xC1 or modrm == 0xD0 or modrm == 0xD4 or modrm == 0xD7 or modrm == 0xD9
            or modrm == 0xEE or modrm == 0xEF or modrm == 0xF9 or modrm == 0xFA or modrm == 0xFB
            or modrm == 0xFD):
        return ANYWHERE
    return PLAIN


cdef inline bint is_whole(u8 opcode) noexcept nogil:
    """Tell whether 0F and an opcode are a sensitive instruction without another byte."""
    return opcode == 0xA2 or opcode == 0x34


cdef u32 classify(u8 opcode, u8 modrm, bint repeated, bint cpuid) noexcept nogil:
    """Classify the instruction 0F, opcode, ModRM; `repeated`: F3 may be among its prefixes."""
    cdef u8 reg = modrm >> 3 & 7
    if opcode == 0x00:
        # SLDT, STR, VERR, VERW; LLDT and LTR trap.
        return IN_SEQUENCE if reg == 0 or reg == 1 or reg == 4 or reg == 5 else PLAIN
    if opcode == 0x01:
        return group_7(modrm)
    if opcode == 0x02 or opcode == 0x03 or opcode == 0x34:
        return IN_SEQUENCE                       # LAR, LSL, SYSENTER
    if opcode == 0xA2:
        return ANYWHERE if cpuid else PLAIN
    if opcode == 0xAE:
        # XSAVE, XRSTOR, XSAVEOPT
        return ANYWHERE if modrm < 0xC0 and 4 <= reg <= 6 else PLAIN
    if opcode == 0xC7:
        # XSAVEC and RDPID; XSAVES and XRSTORS trap.
        if modrm < 0xC0:
            return ANYWHERE if reg == 4 else PLAIN
        return ANYWHERE if reg == 7 and repeated else PLAIN
    return PLAIN


cdef bint repeats(const u8* page, u32 at) noexcept nogil:
    """Tell whether F3 may be among the prefixes before an offset."""
    while at:
        at -= 1
        if page[at] == 0xF3:
            return True
        if not is_prefix(page[at]):
            return False
    return True


cdef inline bint is_data(u8 opcode, u8 modrm) noexcept nogil:
    """Tell whether an opcode of one byte has a ModRM byte that processors refuse, or is ADD [RAX],
    AL: zeros are data, and would be valid in any number."""
    cdef u8 reg = modrm >> 3 & 7
    if opcode == 0x00:
        return modrm == 0
    if opcode == 0xFE:
        return reg > 1
    if opcode == 0xFF:
        return reg == 7
    return reg and (opcode == 0x8F or (opcode & 0xFE == 0xC6 and modrm != 0xF8))


cdef u32 operand_bytes(const u8* p, u32 room) noexcept nogil:
    """Return the bytes of ModRM, SIB and displacement."""
    cdef u8 mod = p[0] >> 6
    cdef u8 rm = p[0] & 7
    cdef u32 size = 1
    if mod == 3:
        return 1
    if rm == 4:
        size = 2
        if mod == 0 and room > 1 and p[1] & 7 == 5:
            size = 6
    elif rm == 5 and mod == 0:
        size = 5
    return size + (1 if mod == 1 else 4 if mod == 2 else 0)


cdef u32 instruction(const u8* page, u32 at, u32 size, bint cpuid, u32* kind) noexcept nogil:
    """Return the length of the instruction at an offset, and its kind.  The length is 1 if there is
    no instruction, and reaches the end if its opcode or ModRM byte is beyond."""
    cdef u32 i = at
    cdef u32 table = 0
    cdef u8 follows, opcode, last = 0
    cdef bint short = False, narrow = False, repeated = False, repne = False, wide, near = False
    kind[0] = PLAIN
    while i < size and is_prefix(page[i]):
        last = page[i]
        short |= last == 0x66
        narrow |= last == 0x67
        repeated |= last == 0xF3
        repne |= last == 0xF2
        i += 1
    wide = last & 0xF8 == 0x48
    if i + 1 >= size or i - at > 14:
        return size
    opcode = page[i]
    i += 1
    if opcode == 0xC5 or opcode == 0xC4 or opcode == 0x62:
        # VEX with two or three bytes, EVEX with four; the maps 2 and 3 have no opcode of their own
        # kind, all of map 3 an immediate.
        if opcode == 0xC5:
            table = 1
        else:
            table = page[i] & (0x1F if opcode == 0xC4 else 7)
        i += 1 if opcode == 0xC5 else 2 if opcode == 0xC4 else 3
        if i >= size:
            return size
        if not 1 <= table <= 6 or table == 4:
            kind[0] = NOTHING
            return 1
        opcode = page[i]
        i += 1
        if table == 1:
            follows = FOLLOWS[1][opcode] & (MODRM | IMM8)
            if opcode != 0x77:
                follows |= MODRM
        else:
            follows = MODRM | (IMM8 if table == 3 else 0)
    elif opcode == 0x0F:
        opcode = page[i]
        i += 1
        if opcode == 0x38 or opcode == 0x3A:
            follows = MODRM if opcode == 0x38 else MODRM | IMM8
            i += 1
        else:
            follows = FOLLOWS[1][opcode]
            near = follows == IMM32
            if opcode == 0x78 and (short or repne):
                follows |= IMM16                 # the two bytes of EXTRQ and INSERTQ
            if i < size or is_whole(opcode):
                kind[0] = classify(opcode, page[i] if i < size else 0, repeated, cpuid)
            if opcode == 0xAE and short:
                kind[0] = PLAIN                  # CLWB; the others trap
    else:
        follows = NEVER if is_data(opcode, page[i]) else FOLLOWS[0][opcode]
        near = opcode & 0xFE == 0xE8
        if opcode & 0xFE == 0xF6 and i < size and page[i] >> 3 & 7 > 1:
            follows = MODRM                      # only TEST has an immediate
        if opcode >= 0xB8 and opcode <= 0xBF and wide:
            i += 4
    if follows & NEVER:
        kind[0] = NOTHING
        return 1
    if follows & MODRM:
        if i >= size:
            return size
        i += operand_bytes(page + i, size - i)
    if follows & OFFSET:
        i += 4 if narrow else 8
    if follows & IMM8:
        i += 1
    if follows & IMM16:
        i += 2
    if follows & IMM32:
        if near and short and not wide:
            # Intel's processors ignore this prefix of a branch, AMD's do not.
            kind[0] = NOTHING
            return 1
        i += 2 if short and not wide else 4
    return i - at


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
    """Tell whether the sensitive bytes at an offset are those of CPUID, XSAVE, XRSTOR, XSAVEOPT, or
    of XGETBV and its kind, behind 0F 01."""
    return page[at + 1] == 0x01 or page[at + 1] == 0xAE or page[at + 1] == 0xA2


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


def length(code: bytes) -> int:
    """Return the length of the instruction at the beginning of `code`, or 1 if there is none."""
    cdef bytes page = code[:PAGE].ljust(PAGE, b"\x90")
    cdef u32 kind = PLAIN
    return instruction(page, 0, PAGE, False, &kind)
