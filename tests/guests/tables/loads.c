/* Every descriptor, loaded into each segment register, LDTR and TR, and inspected by LAR, LSL, VERR
   and VERW, at each CPL with each RPL (SDM 3A 5.5-5.10; 2A LAR, LSL, LLDT, LTR; 2B MOV, POP). */
#include "tables.h"

/* A `step` of 3 has CPL 0 and 3 alone. */
static void load(const char *what, struct code code, u32 step)
{
    EACH_DESCRIPTOR(type, dpl, present)
        for (u32 cpl = 0; cpl < 4; cpl += step) {
            title(what, type, dpl, present, cpl);
            EACH_RING(rpl) {
                describe(S, type, dpl, present, TARGET);
                in_ring(cpl, code);
                in.eax = DATA32(DATA + STACK) = S | rpl;
                in.ebx = DATA;
                DATA32(DATA) = 0x12345678;
                DATA16(DATA + 4) = (u16)(S | rpl);
                result(S);
                if (vector == V_END)
                    print(",%x,%x,%x,%x", in.ds, in.es, in.fs, in.gs);
            }
        }
}

static void inspect(void)
{
    struct code code = CODE32("lar %esi, %ecx\nsetz %bh\nlsl %esi, %edx\nsetz %bl\n"
                              "verr %si\nsetz %al\nverw %si\nsetz %ah");
    EACH_DESCRIPTOR(type, dpl, present)
        EACH_RING(cpl) {
            title("inspect", type, dpl, present, cpl);
            EACH_RING(rpl) {
                describe(S, type, dpl, present, TARGET);
                in_ring(cpl, code);
                in.esi = S | rpl;
                in.ecx = in.edx = 0x5A5A5A5A;
                run();
                print(" %x,%x,%x,%x,%x,%x", vector, in.ebx & 0xFFFF, in.ecx & 0xFFF0FF00, in.edx,
                      in.eax, access_of(S));
            }
        }
}

/* LTR and LLDT, which ring 0 alone may execute.  A task whose TR is S is saved there. */
static void tables(void)
{
    struct code ltr = CODE32(MARK "ltr %ax\nstr %ebx"), lldt = CODE32(MARK "lldt %ax\nsldt %ebx");
    EACH_DESCRIPTOR(type, dpl, present)
        EACH_RING(cpl) {
            title("ltr-lldt", type, dpl, present, cpl);
            EACH_RING(rpl) {
                set_others();
                describe(S, type, dpl, present, TARGET);
                in_ring(cpl, ltr);
                in.eax = S | rpl;
                result(S);
                set_others();
                describe(S, type, dpl, present, TARGET);
                in_ring(cpl, lldt);
                in.eax = S | rpl;
                result(S);
                print(",%x", vector == V_END ? in.ebx : 0);
            }
        }
}

void guest_main(void)
{
    prepare_tables();
    struct { const char *name; struct code code; } rows[] = {
        { "mov-ds", CODE32(MARK "mov %eax, %ds") }, { "mov-es", CODE32(MARK "mov %eax, %es") },
        { "mov-fs", CODE32(MARK "mov %eax, %fs") }, { "mov-gs", CODE32(MARK "mov %eax, %gs") },
        { "mov-ss", CODE32(MARK "mov %eax, %ss") }, { "pop-ds", CODE32(MARK "pop %ds") },
        { "pop-es", CODE32(MARK "pop %es") }, { "pop-fs", CODE32(MARK "pop %fs") },
        { "pop-gs", CODE32(MARK "pop %gs") }, { "pop-ss", CODE32(MARK "pop %ss") },
        { "lds", CODE32(MARK "lds (%ebx), %ecx") }, { "les", CODE32(MARK "les (%ebx), %ecx") },
        { "lfs", CODE32(MARK "lfs (%ebx), %ecx") }, { "lgs", CODE32(MARK "lgs (%ebx), %ecx") },
        { "lss", CODE32(MARK "lss (%ebx), %esp") },
    };
    inspect();
    tables();
    for (u32 i = 0; i < COUNT(rows); i++)
        load(rows[i].name, rows[i].code, i < 5 ? 1 : 3);
    print("\n");
}
