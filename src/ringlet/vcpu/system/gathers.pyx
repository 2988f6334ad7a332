"""Gathers (VGATHERxxx, VPGATHERxx) from ordinary memory.

Programs use them in their innermost loops, so the virtual processor performs them itself while the
guest's vector registers stay where they are.  All lanes are read before anything changes.  If one
cannot be read (it faults, or a device has to answer), or if the processor is stepping, nothing has
changed and the general emulator performs the instruction, lane by lane as the manual says.

Sources: SDM vol. 2C VGATHERDPD, VGATHERDPS, VPGATHERDD, VPGATHERQD; vol. 2A 2.3.5, 2.3.12.
"""
from ringlet.core.state cimport (
    SEG_FS, SEG_GS, FLAG_AC, FLAG_TF, KEY_MODE64, KEY_STEP, MEM_OK, OPF_ADDR32, u8, u32, u64, i32,
    i64, is_canonical)
from ringlet.mmu.mmu cimport mmu_read
from ringlet.vcpu.system.memory cimport user_access

cdef extern from * nogil:
    """
    #define RINGLET_EACH_YMM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) \\
        X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
    #define RINGLET_SAVE_YMM(n) \\
        case n: __asm__ volatile("vmovdqu %%ymm" #n ", (%0)" : : "r"(to) : "memory"); break;
    #define RINGLET_LOAD_YMM(n) \\
        case n: __asm__ volatile("vmovdqu (%0), %%ymm" #n : : "r"(from) : "memory"); break;
    #define RINGLET_LOAD_XMM(n) \\
        case n: __asm__ volatile("vmovdqu (%0), %%xmm" #n : : "r"(from) : "memory"); break;
    #define RINGLET_CLEAR_XMM(n) \\
        case n: __asm__ volatile("vpxor %%xmm" #n ", %%xmm" #n ", %%xmm" #n : : ); break;

    /* The guest's vector registers are in the processor, so no clobbers are named.  Not inlined:
       these are the only functions of the run loop that name vector registers. */
    #define RINGLET_APART __attribute__((noinline))
    RINGLET_APART static void ringlet_ymm_save(unsigned number, void *to)
    { switch (number) { RINGLET_EACH_YMM(RINGLET_SAVE_YMM) } }
    /* Bits above the vector are cleared, as by every instruction with VEX. */
    RINGLET_APART static void ringlet_ymm_load(unsigned number, unsigned bytes, const void *from)
    {
        if (bytes > 16)
            switch (number) { RINGLET_EACH_YMM(RINGLET_LOAD_YMM) }
        else
            switch (number) { RINGLET_EACH_YMM(RINGLET_LOAD_XMM) }
    }
    RINGLET_APART static void ringlet_ymm_clear(unsigned number)
    { switch (number) { RINGLET_EACH_YMM(RINGLET_CLEAR_XMM) } }
    """
    void ringlet_ymm_save(u32 number, void* to)
    void ringlet_ymm_load(u32 number, u32 bytes, const void* source)
    void ringlet_ymm_clear(u32 number)

cdef enum:
    RBP_BASE = 5       # SIB.base: no base register if ModRM.mod is 0


# The fields of a gather's bytes.
cdef struct Gather:
    u32 target
    u32 index
    u32 mask
    u32 scale          # 0..3
    u32 lane           # bytes of an element
    u32 wide           # 64-bit indices
    u32 count          # elements
    u64 base           # linear address to which the scaled indices are added


cdef bint parse(CpuState* c, OpInfo* op, Gather* g) noexcept nogil:
    """Read a gather's bytes.  Return False if they are another instruction, or one that raises #UD
    or truncates its addresses."""
    cdef const u8* p = op.bytes
    cdef u32 r, x, b, width, base
    while p[0] == 0x64 or p[0] == 0x65 or p[0] & 0xE7 == 0x26:
        p += 1      # segment overrides; other prefixes before VEX raise #UD
    if p[0] != 0xC4 or p[1] & 0x1F != 2 or p[2] & 3 != 1 or not 0x90 <= p[3] <= 0x93 \
            or p[4] >= 0xC0 or p[4] & 7 != 4 or op.flags & OPF_ADDR32:
        return False
    r = (~p[1] >> 7 & 1) << 3
    x = (~p[1] >> 6 & 1) << 3
    b = (~p[1] >> 5 & 1) << 3
    g.target = (p[4] >> 3 & 7) | r
    g.index = (p[5] >> 3 & 7) | x
    g.mask = ~(p[2] >> 3) & 15
    if g.target == g.index or g.target == g.mask or g.index == g.mask:
        return False
    g.scale = p[5] >> 6
    g.lane = 8 if p[2] & 0x80 else 4
    g.wide = p[3] & 1
    width = 32 if p[2] & 4 else 16
    g.count = width // (8 if g.wide or g.lane == 8 else 4)
    base = p[5] & 7
    g.base = 0
    if base != RBP_BASE or p[4] >= 0x40:
        g.base = c.arch.gpr[base | b]
    if p[4] >> 6 == 1:
        g.base += <u64><i64>(<signed char>p[6])
    elif p[4] >> 6 == 2 or base == RBP_BASE:
        g.base += <u64><i64>(<i32*>(p + 6))[0]
    if op.seg == SEG_FS or op.seg == SEG_GS:
        g.base += c.arch.seg[op.seg].base
    return True


cdef bint op_gather(CpuState* c, OpInfo* op) noexcept nogil:
    """Perform a gather whose lanes can all be read.  False: it is not one, and nothing changed."""
    cdef Gather g
    cdef u8 target[32]
    cdef u8 mask[32]
    cdef u8 index[32]
    cdef u32 i, access = user_access(c)
    cdef u64 linear
    if c.key & (KEY_STEP | KEY_MODE64) != KEY_MODE64 or c.debugger != NULL \
            or c.arch.rflags & (FLAG_AC | FLAG_TF) or not parse(c, op, &g):
        return False
    ringlet_ymm_save(g.index, index)
    ringlet_ymm_save(g.mask, mask)
    ringlet_ymm_save(g.target, target)
    for i in range(g.count):
        if not mask[(i + 1) * g.lane - 1] & 0x80:
            continue
        if g.wide:
            linear = (<u64*>index)[i]
        else:
            linear = <u64><i64>(<i32*>index)[i]
        linear = g.base + (linear << g.scale)
        if not is_canonical(linear) or not is_canonical(linear + g.lane - 1) \
                or mmu_read(c, linear, target + i * g.lane, g.lane, access) != MEM_OK:
            return False
    for i in range(g.count * g.lane, 32):
        target[i] = 0
    ringlet_ymm_load(g.target, g.count * g.lane, target)
    ringlet_ymm_clear(g.mask)
    return True
