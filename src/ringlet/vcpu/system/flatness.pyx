"""Which segments translated code of 16 and 32 bits may take for flat.

A flat data segment has base 0 and 4 GiB that can be read and written.  Code in which DS, ES and SS
are flat accesses memory without checks; what is else of them is part of the key (docs/adr/0028).
FS and GS have bases of their own.  If one has less than 4 GiB accesses in both are checked, as in
code in segments.

Data segments of 64 KiB, as in real mode, need no check of 16-bit offsets but where an operand
passes the last one: 2 to 64 bytes at FFFFh and thereabout.  PDEP then makes the address not
canonical.
"""
from ringlet.core.state cimport (
    AR_DB, AR_G, AR_P, AR_S, AR_UNUSABLE, FLAG_VM, KEY_CS64K, KEY_CS_ODD, KEY_DATA64K, KEY_LIMITED,
    KEY_PARAGRAPHS, KEY_SEGMENTED, KEY_STACK16,
    SEG_CS, SEG_DS, SEG_ES, SEG_FS, SEG_GS, SEG_SS, Held, Remembered, Segment)
from ringlet.vcpu.system.registers cimport (
    AR_ACCESSED, AR_CODE, AR_READABLE, AR_WRITABLE, CR0_PE, dpl_of, long_mode)

cdef enum:
    EXPAND_DOWN = 4
    LIMIT_64K = 0xFFFF
    LIMIT_4G = 0xFFFFFFFF
    VECTORS_LIMIT = 0x3FF            # of real mode's interrupt table

cdef u64 NOWHERE = <u64>1 << 62      # not canonical, whatever 32-bit offset is added


cdef inline bint is_whole(Segment* s) noexcept nogil:
    """Whether all of 4 GiB can be read and written."""
    return (s.limit == <u32>LIMIT_4G and s.ar & (AR_UNUSABLE | AR_CODE | EXPAND_DOWN) == 0
            and s.ar & (AR_P | AR_S | AR_WRITABLE) == AR_P | AR_S | AR_WRITABLE)


cdef inline bint has_limit(Segment* s) noexcept nogil:
    """Whether FS or GS can be used, but not all of 4 GiB."""
    return not s.ar & AR_UNUSABLE and not is_whole(s)


cdef void measure_segments(CpuState* c) noexcept nogil:
    """Find how far each segment can be read and written; one that expands down is emulated."""
    cdef bint unchecked = not c.arch.cr0 & CR0_PE or c.arch.rflags & FLAG_VM
    cdef Segment* s
    cdef u64 size
    cdef u32 i
    for i in range(6):
        s = &c.arch.seg[i]
        size = 0 - <u64>s.limit - 1
        c.segment_read[i] = c.segment_write[i] = 0
        if unchecked:
            c.segment_read[i] = c.segment_write[i] = size
        elif s.ar & AR_UNUSABLE or s.ar & (AR_P | AR_S) != AR_P | AR_S:
            continue
        elif s.ar & AR_CODE:
            if s.ar & AR_READABLE:
                c.segment_read[i] = size
        elif not s.ar & EXPAND_DOWN:
            c.segment_read[i] = size
            if s.ar & AR_WRITABLE:
                c.segment_write[i] = size


cdef inline bint has_64k(CpuState* c, u32 index) noexcept nogil:
    """Whether exactly 64 KiB can be read, and written but for CS."""
    cdef u64 size = c.segment_read[index] if index == SEG_CS else c.segment_write[index]
    return size == 0 - <u64>LIMIT_64K - 1


cdef bint loads_base_alone(CpuState* c) noexcept nogil:
    """Whether a load in real mode, but for SS, changes nothing but selector and base."""
    cdef Segment* s = c.arch.seg
    return (has_64k(c, SEG_CS) and has_64k(c, SEG_FS) and has_64k(c, SEG_GS)
            and not (s[SEG_ES].ar | s[SEG_DS].ar | s[SEG_FS].ar | s[SEG_GS].ar) & AR_UNUSABLE)


cdef inline bint may_be_held(CpuState* c, Segment* s) noexcept nogil:
    """Whether a load at CPL 0 of what the segment holds already would succeed, and change nothing.

    A descriptor that was not accessed would be written.
    """
    cdef u32 selector = s.selector
    if not c.arch.cr0 & CR0_PE or selector < 4 or selector & 4 \
            or (selector | 7) > c.arch.gdtr.limit:
        return False
    if long_mode(c) and (c.arch.gdtr.base + (selector | 7)) >> 32:
        return False   # 32-bit code does not compare such a descriptor
    if s.ar & (AR_UNUSABLE | AR_P | AR_S | AR_ACCESSED) != AR_P | AR_S | AR_ACCESSED:
        return False
    if s.ar & AR_CODE or selector & 3 > dpl_of(s.ar) or s.base >> 32:
        return False
    return s.limit & 0xFFF == 0xFFF if s.ar & AR_G else s.limit >> 20 == 0


cdef void hold(CpuState* c, Segment* s, Held* h) noexcept nogil:
    """Note the descriptor of a segment, or that none is held."""
    cdef u32 limit = s.limit >> 12 if s.ar & AR_G else s.limit
    cdef u32 base = <u32>s.base
    h.selector = 0 - <u32>s.selector if may_be_held(c, s) else 1
    h.at = <u32>(c.arch.gdtr.base + (s.selector & 0xFFF8))
    h.low = 0 - (limit & 0xFFFF | base << 16)
    h.high = 0 - (base >> 16 & 0xFF | (s.ar & 0xF0FF) << 8 | limit & 0xF0000
                  | base & <u32>0xFF000000)


cdef inline bint is_null_load(Segment* s) noexcept nogil:
    """Whether the segment is what a load of a null selector gives."""
    return s.selector < 4 and s.ar == AR_UNUSABLE and not s.base and not s.limit


cdef void remember(CpuState* c, Segment* s, Remembered* kept) noexcept nogil:
    """Keep FS or GS for its next load, with the segment before it.

    One with a limit is not kept: the key tells of it.
    """
    cdef Held held
    if is_null_load(s):
        held.selector = 0 - <u32>s.selector
        held.at = held.low = held.high = 0
    elif is_whole(s) and may_be_held(c, s):
        hold(c, s, &held)
        if not held.at:
            return
    else:
        return
    if kept[1].held.selector == held.selector:
        kept += 1
    elif kept[0].held.selector != held.selector:
        kept[1] = kept[0]
    kept[0].segment = s[0]
    kept[0].held = held


cdef void forget_segments(CpuState* c) noexcept nogil:
    cdef u32 i
    for i in range(4):
        c.remembered[i].held.selector = 1
    c.remembered_in = c.arch.gdtr


cdef void hold_segments(CpuState* c) noexcept nogil:
    """Tell translated code at CPL 0 what loads of DS, ES, FS and GS give (narrow.selectors)."""
    # A descriptor above 4 GiB is elsewhere outside IA-32e mode.
    cdef bint known = c.arch.cr0 & CR0_PE != 0 and (c.arch.gdtr.base + 0xFFFF) >> 32 == 0
    hold(c, &c.arch.seg[SEG_ES], &c.held[SEG_ES])
    hold(c, &c.arch.seg[SEG_DS], &c.held[SEG_DS])
    if not known or c.remembered_in.base != c.arch.gdtr.base \
            or c.remembered_in.limit != c.arch.gdtr.limit:
        forget_segments(c)
    if known:
        remember(c, &c.arch.seg[SEG_FS], &c.remembered[0])
        remember(c, &c.arch.seg[SEG_GS], &c.remembered[2])


cdef u32 key_of_segments(CpuState* c) noexcept nogil:
    cdef Segment* s = c.arch.seg
    cdef u32 key = 0
    if not (is_whole(&s[SEG_DS]) and is_whole(&s[SEG_ES]) and is_whole(&s[SEG_SS])
            and not s[SEG_DS].base | s[SEG_ES].base | s[SEG_SS].base and s[SEG_SS].ar & AR_DB):
        key |= KEY_SEGMENTED
    elif has_limit(&s[SEG_FS]) or has_limit(&s[SEG_GS]):
        key |= KEY_LIMITED
    if not s[SEG_SS].ar & AR_DB:
        key |= KEY_STACK16
    if key:
        # Code in flat segments checks nothing.
        measure_segments(c)
    if c.deposit and key & KEY_STACK16 and has_64k(c, SEG_DS) and has_64k(c, SEG_ES) \
            and has_64k(c, SEG_SS):
        key = key & ~<u32>KEY_LIMITED | KEY_DATA64K | KEY_SEGMENTED
        if (not c.arch.cr0 & CR0_PE or c.arch.rflags & FLAG_VM) and loads_base_alone(c):
            key |= KEY_PARAGRAPHS
    if s[SEG_CS].limit == LIMIT_64K:
        key |= KEY_CS64K
    elif s[SEG_CS].limit != <u32>LIMIT_4G:
        key |= KEY_CS_ODD
    elif s[SEG_CS].base:
        # Its targets are within the limit, but not the jump table's alone.
        key |= KEY_CS64K | KEY_CS_ODD
    return key


cdef void locate_segments(CpuState* c, u64 addend) noexcept nogil:
    cdef u64 base
    cdef u32 i
    c.flat_host = addend
    if c.key & (KEY_SEGMENTED | KEY_LIMITED):
        for i in range(6):
            # WRMSR gives FS and GS bases of 64 bits, of which this code sees 32 (SDM 3A 3.4.4).
            base = <u32>c.arch.seg[i].base
            c.segment_at[i] = (addend + base) ^ <u64>1 << 63
            c.paragraph_at[i] = addend + base if has_64k(c, i) else NOWHERE
        c.vectors_at = NOWHERE
        if c.arch.idtr.limit >= VECTORS_LIMIT:
            c.vectors_at = addend + <u32>c.arch.idtr.base
        return
    for i in range(SEG_FS, SEG_GS + 1):
        c.segment_host[i] = addend if is_whole(&c.arch.seg[i]) else NOWHERE
    for i in range(4):
        c.remembered[i].host = addend if c.remembered[i].held.at else NOWHERE
