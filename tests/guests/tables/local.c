/* Every descriptor in a local descriptor table, where those of tables and of TSSs are refused, and
   selectors that are null or beyond a table (SDM 3A 3.5.1, 5.4, 7.2.2; 2A LAR, LLDT, LTR). */
#include "tables.h"

enum { L = 0x0C };      /* entry 1 of the table that `local` is, which has 8 */

static struct {
    const char *name;
    struct code code;
} operations[10];

/* One operation on a selector.  A link that is bad is found by IRET with NT. */
static void with(u32 operation, u32 cpl, u32 selector)
{
    in_ring(cpl, operations[operation].code);
    in.ldt = LDT_SEL;
    in.eax = in.esi = selector;
    in.ebx = DATA;
    DATA32(DATA) = DATA32(DATA + STACK) = end.start - SNIPPETS;
    DATA32(DATA + 4) = DATA32(DATA + STACK + 4) = selector;
    volatile u32 *frame = (u32 *)(DATA + STACK + 8);
    if (operation == 3)
        *frame++ = 2;
    frame[0] = DATA + STACK - 0x2000;
    frame[1] = data_of(selector & 3);
    if (operation == 9) {
        in.link = selector;
        in.eflags |= F_NT;
    }
    result(S);
    if (operation == 8)
        print(",%x,%x,%x", in.ecx & 0xFFF0FF00, in.edx, in.eax);
    print(",%x", local[3] >> 8 & 0xFF);
}

static void descriptors(u32 operation)
{
    EACH_DESCRIPTOR(type, dpl, present)
        for (u32 cpl = 0; cpl < 4; cpl += 3) {
            title(operations[operation].name, type, dpl, present, cpl);
            EACH_RING(rpl) {
                set_others();
                describe(S, type, dpl, present, type == 5 ? OTHER : TARGET);
                local[2] = gdt[S / 4];
                local[3] = gdt[S / 4 + 1];
                with(operation, cpl, L | rpl);
            }
        }
}

static void special(u32 operation)
{
    static const u16 selectors[] = { 0, 4, 0x3C, 0x44, 0x7FC, 0x7F8, 0x800, 0xFFF8, 0xFFFC };
    for (u32 i = 0; i < COUNT(selectors); i++)
        EACH_RING(cpl) {
            print("\n%s %x c%u:", operations[operation].name, selectors[i], cpl);
            EACH_RING(rpl)
                with(operation, cpl, selectors[i] | rpl);
        }
}

void guest_main(void)
{
    prepare_tables();
    set_segment(LDT_SEL, (u32)local, sizeof local - 1, LDT);
    struct { const char *name; struct code code; } rows[] = {
        { "jmp", CODE32(MARK "ljmp *(%ebx)") }, { "call", CODE32(MARK "lcall *(%ebx)") },
        { "ret", CODE32(MARK "lret") }, { "iret", CODE32(MARK "iret") },
        { "ds", CODE32(MARK "mov %eax, %ds") }, { "ss", CODE32(MARK "mov %eax, %ss") },
        { "ltr", CODE32(MARK "ltr %ax") }, { "lldt", CODE32(MARK "lldt %ax") },
        { "lar", CODE32("lar %esi, %ecx\nlsl %esi, %edx\nverr %si\nsetz %al\nverw %si\n"
                        "setz %ah") },
        { "iret-nt", CODE32(MARK "iret") },
    };
    for (u32 i = 0; i < COUNT(rows); i++) {
        operations[i].name = rows[i].name;
        operations[i].code = rows[i].code;
        descriptors(i);
        special(i);
    }
    print("\n");
}
