/* Far transfers to every descriptor at each CPL with each RPL, through call and interrupt gates to
   every descriptor, and every stack segment of an inner ring (SDM 3A 5.8, 6.12; 2A CALL, INT n,
   IRET, JMP; 2B RET). */
#include "tables.h"

static struct code call, jump, ret, iret, interrupt, undefined;

/* JMP, CALL, RET and IRET to a selector.  The outer ring's stack is behind the frame's address. */
static void to_selectors(void)
{
    struct { const char *name; struct code code; } rows[] = {
        { "jmp", jump }, { "call", call }, { "ret", ret }, { "iret", iret },
    };
    for (u32 i = 0; i < COUNT(rows); i++)
        EACH_DESCRIPTOR(type, dpl, present)
            EACH_RING(cpl) {
                title(rows[i].name, type, dpl, present, cpl);
                EACH_RING(rpl) {
                    set_others();
                    describe(S, type, dpl, present, type == 5 ? OTHER : TARGET);
                    in_ring(cpl, rows[i].code);
                    in.ebx = DATA;
                    DATA32(DATA) = DATA32(DATA + STACK) = end.start - SNIPPETS;
                    DATA32(DATA + 4) = DATA32(DATA + STACK + 4) = S | rpl;
                    volatile u32 *frame = (u32 *)(DATA + STACK + 8);
                    if (i == 3)
                        *frame++ = 2;
                    frame[0] = DATA + STACK - 0x2000;
                    frame[1] = data_of(rpl);
                    result(S);
                    print(",%x", access_of(OTHER));
                }
            }
}

/* The same with 16-bit operands, to segments alone. */
static void by_words(void)
{
    struct { const char *name; struct code code; } rows[] = {
        { "jmpw", CODE32(MARK "ljmpw *(%ebx)") }, { "callw", CODE32(MARK "lcallw *(%ebx)") },
        { "retw", CODE32(MARK "lretw") }, { "iretw", CODE32(MARK "iretw") },
    };
    for (u32 i = 0; i < COUNT(rows); i++)
        for (u32 type = 16; type < 32; type++)
            for (u32 dpl = 0; dpl < 4; dpl++)
                EACH_RING(cpl) {
                    title(rows[i].name, type, dpl, 1, cpl);
                    EACH_RING(rpl) {
                        describe(S, type, dpl, 1, TARGET);
                        in_ring(cpl, rows[i].code);
                        in.ebx = DATA;
                        DATA16(DATA) = DATA16(DATA + STACK) = (u16)(end.start - SNIPPETS);
                        DATA16(DATA + 2) = DATA16(DATA + STACK + 2) = (u16)(S | rpl);
                        volatile u16 *frame = (u16 *)(DATA + STACK + 4);
                        if (i == 3)
                            *frame++ = 2;
                        frame[0] = 0x6000;
                        frame[1] = (u16)data_of(rpl);
                        result(S);
                    }
                }
}

/* A gate of ring 3 to each descriptor: CALL and JMP through call gates, and INT. */
static void through_gates(void)
{
    static const u8 gates[] = { CALL16, CALL32, INT16, TRAP16, INT32, TRAP32 };
    for (u32 i = 0; i < COUNT(gates); i++)
        EACH_DESCRIPTOR(type, dpl, present)
            EACH_RING(cpl) {
                print("\ngate%x t%x d%u p%u c%u:", gates[i], type, dpl, present, cpl);
                for (u32 rpl = 0; rpl < 4; rpl += 3)
                    for (u32 jumps = 0; jumps < (i < 2 ? 2u : 1u); jumps++) {
                        describe(TARGET, type, dpl, present, KCODE);
                        u32 *gate = i < 2 ? gdt + S / 4 : idt + 2 * 0x40;
                        set_gate(gate, TARGET | rpl, end.start - SNIPPETS,
                                 gates[i] | RING3 | (i < 2 ? 2 << 16 : 0));
                        in_ring(cpl, i >= 2 ? interrupt : jumps ? jump : call);
                        in.ebx = DATA;
                        DATA32(DATA + 4) = S;
                        DATA32(DATA + STACK) = 0x11112222;
                        DATA32(DATA + STACK + 4) = 0x33334444;
                        in.eflags |= F_CF | F_OF | F_NT | F_IOPL;
                        result(TARGET);
                        print(",%x", in.eflags);
                    }
            }
    set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG);
}

/* Entries of the IDT of every type, for INT n and for an exception. */
static void of_idt(void)
{
    EACH_DESCRIPTOR(type, dpl, present)
        EACH_RING(cpl) {
            print("\nidt t%x d%u p%u c%u:", type, dpl, present, cpl);
            for (u32 i = 0; i < 2; i++) {
                u32 *gate = idt + 2 * (i ? V_UD : 0x40), kept[] = { gate[0], gate[1] };
                set_others();
                set_gate(gate, type == 5 ? OTHER : TARGET, end.start - SNIPPETS,
                         type | dpl << 5 | present << 7);
                in_ring(cpl, i ? undefined : interrupt);
                result(OTHER);
                gate[0] = kept[0];
                gate[1] = kept[1];
            }
        }
}

/* Every stack segment of an inner ring, for CALL and INT; with every RPL. */
static void inner_stacks(void)
{
    for (u32 inner = 0; inner < 3; inner++)
        for (u32 calls = 0; calls < 2; calls++)
            EACH_DESCRIPTOR(type, dpl, present) {
                print("\nstack%u %s t%x d%u p%u:", inner, calls ? "call" : "int", type, dpl,
                      present);
                EACH_RING(rpl) {
                    set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG | inner << 5);
                    describe(OTHER16, type, dpl, present, KCODE);
                    set_gate(calls ? gdt + S / 4 : idt + 2 * 0x40, TARGET, end.start - SNIPPETS,
                             (calls ? CALL32 : INT32) | RING3);
                    in_ring(3, calls ? call : interrupt);
                    in.ebx = DATA;
                    DATA32(DATA + 4) = S;
                    (&in.ss0)[2 * inner] = OTHER16 | rpl;
                    result(OTHER16);
                }
            }
    set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG);
}

void guest_main(void)
{
    prepare_tables();
    call = CODE32(MARK "lcall *(%ebx)");
    jump = CODE32(MARK "ljmp *(%ebx)");
    ret = CODE32(MARK "lret");
    iret = CODE32(MARK "iret");
    interrupt = CODE32(MARK "int $0x40");
    undefined = CODE32(MARK "ud2");
    to_selectors();
    by_words();
    through_gates();
    of_idt();
    inner_stacks();
    print("\n");
}
