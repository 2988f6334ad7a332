/* Returns to outer rings with every stack segment and with every segment in DS to GS, which the
   processor may clear; inner stacks of a 16-bit TSS (SDM 2A IRET, INT n; 2B RET; 3A 5.8.6, 7.6). */
#include "tables.h"

enum { GATE = 0xC8 };

static struct code call, leave, leave_by_iret;

static void set_frame(u32 iret, u32 ring, u32 ss)
{
    volatile u32 *frame = (u32 *)(DATA + STACK);
    set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG | ring << 5);
    *frame++ = end.start - SNIPPETS;
    *frame++ = TARGET | ring;
    if (iret)
        *frame++ = 2;
    *frame++ = DATA + STACK - 0x2000;
    *frame = ss;
}

static void outer_stacks(void)
{
    for (u32 iret = 0; iret < 2; iret++)
        for (u32 ring = 1; ring < 4; ring++)
            EACH_DESCRIPTOR(type, dpl, present) {
                title(iret ? "ss-iret" : "ss-ret", type, dpl, present, ring);
                EACH_RING(rpl) {
                    describe(S, type, dpl, present, KCODE);
                    in_ring(0, iret ? leave_by_iret : leave);
                    set_frame(iret, ring, S | rpl);
                    result(S);
                }
            }
}

/* What DS to GS have at ring 0 and keep in the outer ring. */
static void kept_segments(void)
{
    for (u32 iret = 0; iret < 2; iret++)
        for (u32 ring = 1; ring < 4; ring++)
            for (u32 type = 16; type < 32; type++)
                for (u32 dpl = 0; dpl < 4; dpl++) {
                    title(iret ? "ds-iret" : "ds-ret", type, dpl, 1, ring);
                    EACH_RING(rpl) {
                        describe(S, type, dpl, 1, KCODE);
                        in_ring(0, iret ? leave_by_iret : leave);
                        set_frame(iret, ring, data_of(ring));
                        in.ds = in.es = in.fs = in.gs = S | rpl;
                        result(S);
                        print(",%x,%x,%x,%x", in.ds, in.es, in.fs, in.gs);
                    }
                }
}

/* CALL and INT from ring 3 of a task with a 16-bit TSS, to each inner ring. */
static void stacks_of_16_bits(void)
{
    struct code into = CODE16(MARK "int $0x40"), far = CODE16(MARK "lcall $0xC8, $0");
    for (u32 inner = 0; inner < 3; inner++)
        for (u32 calls = 0; calls < 2; calls++)
            EACH_DESCRIPTOR(type, dpl, present) {
                title(calls ? "ss16-call" : "ss16-int", type, dpl, present, inner);
                EACH_RING(rpl) {
                    set_others();
                    set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG | inner << 5);
                    set_segment(TARGET_DATA, SNIPPETS, 0xFFFF, XR | RING3);
                    describe(S, type, dpl, present, KCODE);
                    set_gate(gdt + GATE / 4, TARGET, end.start - SNIPPETS, CALL16 | RING3);
                    set_gate(idt + 2 * 0x40, TARGET, end.start - SNIPPETS, INT32 | RING3);
                    in_ring(0, call);
                    in.ebx = DATA;
                    DATA32(DATA + 4) = OTHER16;
                    other16.ip = (u16)((calls ? far.start : into.start) - SNIPPETS);
                    other16.cs = TARGET_DATA | 3;
                    other16.ss = other16.ds = other16.es = (u16)data_of(3);
                    (&other16.sp0)[2 * inner] = 0x7000;
                    (&other16.ss0)[2 * inner] = (u16)(S | rpl);
                    run();
                    print(" %x.%x,%x,%x,%x,%x,%x,%x", vector, error, link, other16.cs, other16.ss,
                          other16.sp, other16.flags, access_of(S));
                }
            }
}

void guest_main(void)
{
    prepare_tables();
    call = CODE32(MARK "lcall *(%ebx)");
    leave = CODE32(MARK "lret");
    leave_by_iret = CODE32(MARK "iret");
    outer_stacks();
    kept_segments();
    stacks_of_16_bits();
    print("\n");
}
