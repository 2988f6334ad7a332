/* Virtual-8086 mode: interrupts through every entry of the IDT, to every code segment and to every
   stack of ring 0, and IRET to it at each CPL (SDM 3A 20.2, 20.3; 2A INT n, IRET). */
#include "tables.h"

static struct code interrupt, undefined;

static void in_virtual(u32 iopl, struct code code)
{
    in_v86((int)iopl, code);
    now = code;
    now.mark -= SNIPPETS;
    in.es = 0x1111, in.fs = 0x2222, in.gs = 0x3333;
    wipe(INNER - 0x40, 0x80);
}

static void tell(u32 at)
{
    result(at);
    print(",%x,%x,%x,%x,%x", in.ds, in.es, in.fs, in.gs, in.eflags);
}

/* An entry of every type, for INT n and for an exception. */
static void entries(void)
{
    EACH_DESCRIPTOR(type, dpl, present)
        for (u32 i = 0; i < 2; i++) {
            title(i ? "ud2" : "int", type, dpl, present, 3);
            EACH_RING(iopl) {
                u32 *gate = idt + 2 * (i ? V_UD : 0x40), kept[] = { gate[0], gate[1] };
                set_others();
                set_gate(gate, type == 5 ? OTHER : TARGET, end.start - SNIPPETS,
                         type | dpl << 5 | present << 7);
                in_virtual(iopl, i ? undefined : interrupt);
                tell(OTHER);
                gate[0] = kept[0];
                gate[1] = kept[1];
            }
        }
}

static void targets(void)
{
    static const u8 gates[] = { INT16, TRAP16, INT32, TRAP32 };
    EACH_DESCRIPTOR(type, dpl, present) {
        title("to", type, dpl, present, 3);
        for (u32 i = 0; i < COUNT(gates); i++) {
            describe(TARGET, type, dpl, present, KCODE);
            set_gate(idt + 2 * 0x40, TARGET | i, end.start - SNIPPETS, gates[i] | RING3);
            in_virtual(3, interrupt);
            in.eflags |= F_NT | F_OF;
            tell(TARGET);
        }
    }
    set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG);
}

static void stacks(void)
{
    EACH_DESCRIPTOR(type, dpl, present) {
        title("stack", type, dpl, present, 3);
        EACH_RING(rpl) {
            describe(S, type, dpl, present, KCODE);
            set_gate(idt + 2 * 0x40, TARGET, end.start - SNIPPETS, INT32 | RING3);
            in_virtual(3, interrupt);
            in.ss0 = S | rpl;
            tell(S);
        }
    }
}

/* IRET with VM in the frame, which ring 0 alone may set; CS is every descriptor. */
static void by_iret(void)
{
    struct code iret = CODE32(MARK "iret");
    EACH_DESCRIPTOR(type, dpl, present)
        EACH_RING(cpl) {
            title("iret", type, dpl, present, cpl);
            EACH_RING(rpl) {
                volatile u32 *frame = (u32 *)(DATA + STACK);
                describe(S, type, dpl, present, TARGET);
                in_ring(cpl, iret);
                in.eflags |= cpl << 12;
                frame[0] = end.start - SNIPPETS;
                frame[1] = cpl ? S | rpl : LOW / 16;
                frame[2] = F_VM | F_IOPL | 2;
                frame[3] = cpl ? DATA + STACK - 0x2000 : 0x7000;
                frame[4] = cpl ? data_of(rpl) : DATA_V86 / 16;
                frame[5] = 0x1111, frame[6] = 0x2222, frame[7] = 0x3333, frame[8] = 0x4444;
                tell(S);
            }
        }
}

void guest_main(void)
{
    prepare_tables();
    interrupt = CODE16(MARK "int $0x40");
    undefined = CODE16(MARK "ud2");
    entries();
    targets();
    stacks();
    by_iret();
    print("\n");
}
