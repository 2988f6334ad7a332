/* Support of the programs that try every descriptor.  A line has the operation, the descriptor's S
   and type (t), DPL (d) and P (p), the CPL (c), and one result for each RPL or each class:

   +CS,SS,ESP,SUM,ACCESS    ended: the registers, a sum of 8 doublewords of the stack, and the
                            descriptor's access byte afterwards; behind a * the task that ended
   VECTOR.ERROR             faulted there and changed nothing; !: something has changed */
#ifndef TABLES_H
#define TABLES_H
#include "narrow.h"

enum {
    S = FREE, TARGET = FREE + 8, OTHER = FREE + 16, RING_CODE = FREE + 24, RING_DATA = FREE + 56,
    OTHER16 = FREE + 88, TARGET_DATA = FREE + 96
};
#define STACKS (DATA + 0x30000u)    /* of the inner rings; 400h bytes each */

struct tss16 {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss,
        ds, ldt;
};

static struct tss other;
static struct tss16 other16;
static struct code end, now;
static u32 local[16];

static inline u32 code_of(u32 ring)
{
    return (RING_CODE + 8 * ring) | ring;
}

static inline u32 data_of(u32 ring)
{
    return (RING_DATA + 8 * ring) | ring;
}

static inline u32 is_gate(u32 type)
{
    return type < 16 && type & 4 && type != 13;
}

/* Make a descriptor of `type` (S is bit 4): code at SNIPPETS, flat data, a TSS, an LDT, or a gate
   to `selector` at the snippet `end`. */
static inline void describe(u32 at, u32 type, u32 dpl, u32 present, u32 selector)
{
    u32 access = type | dpl << 5 | present << 7;
    if (is_gate(type))
        set_gate(gdt + at / 4, selector, end.start - SNIPPETS, access);
    else if (type == 1 || type == 3)
        set_segment(at, (u32)&other16, sizeof other16 - 1, access);
    else if (type == 9 || type == 11)
        set_segment(at, (u32)&other, sizeof other - 1, access);
    else if (type == 2)
        set_segment(at, (u32)local, sizeof local - 1, access);
    else if (type >= 16 && type < 24)
        set_segment(at, 0, type & 4 ? 0 : 0xFFFFF, access | FLAT);
    else
        set_segment(at, SNIPPETS, 0xFFFF, access | BIG);
}

static inline void wipe(u32 at, u32 bytes)
{
    u32 count = bytes / 4;
    asm volatile("rep stosl" : "+D"(at), "+c"(count) : "a"(0) : "memory");
}

/* The snippet at a CPL, with the stacks of the rings cleared. */
static inline void in_ring(u32 cpl, struct code code)
{
    in_flat(0, code);
    now = code;
    in.cs = code_of(cpl);
    in.ds = in.es = in.fs = in.gs = in.ss = data_of(cpl);
    for (u32 ring = 0; ring < 3; ring++) {
        (&in.esp0)[2 * ring] = STACKS + 0x400 * ring + 0x400;
        (&in.ss0)[2 * ring] = data_of(ring);
    }
    wipe(STACKS, 0xC40);
    wipe(DATA + STACK - 0x40, 0x80);
}

/* The other tasks, at `end` in ring 0. */
static inline void set_others(void)
{
    wipe((u32)&other, 104);
    wipe((u32)&other16, sizeof other16);
    other.eip = other16.ip = end.start - SNIPPETS;
    other.eflags = other16.flags = 2;
    other.esp = DATA + STACK - 0x1000;
    other16.sp = STACK - 0x1000;
    other.cs = other16.cs = TARGET;
    other.ss = other.ds = other.es = other.fs = other.gs = data_of(0);
    other16.ss = other16.ds = other16.es = TARGET_DATA;
    other.cr3 = kernel_tss.cr3;
    set_segment(OTHER, (u32)&other, sizeof other - 1, TSS32);
    set_segment(OTHER16, (u32)&other16, sizeof other16 - 1, TSS16);
}

static inline u32 sum_at(u32 at)
{
    u32 sum = 0;
    if (at < DATA || at > DATA + DATA_SIZE - 32)
        return 0xBAD;
    for (u32 i = 0; i < 8; i++)
        sum = (sum << 5 | sum >> 27) ^ DATA32(at + 4 * i);
    return sum;
}

/* Run the snippet and print its result; `at` is the descriptor of which the access byte tells. */
static inline void result(u32 at)
{
    u32 cs = in.cs, ss = in.ss, esp = in.esp, ds = in.ds;
    run();
    if (vector != V_END) {
        u32 kept = in.eip == now.mark && in.cs == cs && in.ss == ss && in.esp == esp && in.ds == ds;
        print(" %x.%x", vector, error);
        if (!kept || link != TSS_SNIPPET)
            print("!%x,%x,%x,%x,%x", link, in.cs, in.ss, in.esp, in.eip == now.mark);
    } else if (link == OTHER || (link == S && (access_of(S) & 0x1D) == 9))
        print(" *%x,%x,%x,%x,%x,%x,%x,%x", link, other.link, other.cs, other.ss, other.esp,
              other.eflags, access_of(TSS_SNIPPET), in.eflags);
    else if (link != TSS_SNIPPET)
        print(" *%x,%x,%x,%x,%x,%x,%x,%x", link, other16.link, other16.cs, other16.ss,
              other16.sp, other16.flags, access_of(TSS_SNIPPET), in.eflags);
    else
        print(" +%x,%x,%x,%x", in.cs, in.ss, in.esp, sum_at(in.esp));
    print(",%x", access_of(at));
}

static inline void title(const char *what, u32 type, u32 dpl, u32 present, u32 cpl)
{
    print("\n%s t%x d%u p%u c%u:", what, type, dpl, present, cpl);
}

#define EACH_DESCRIPTOR(type, dpl, present)         \
    for (u32 type = 0; type < 32; type++)           \
        for (u32 dpl = 0; dpl < 4; dpl++)           \
            for (u32 present = 0; present < 2; present++)
#define EACH_RING(ring) for (u32 ring = 0; ring < 4; ring++)

static inline void prepare_tables(void)
{
    end = CODE32("nop");
    EACH_RING(ring) {
        set_segment(RING_CODE + 8 * ring, 0, 0xFFFFF, XR | FLAT | ring << 5);
        set_segment(RING_DATA + 8 * ring, 0, 0xFFFFF, RW | FLAT | ring << 5);
    }
    set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG);
    set_segment(TARGET_DATA, DATA, 0xFFFF, RW);
    set_others();
}

#endif
