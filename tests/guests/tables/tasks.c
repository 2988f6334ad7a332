/* Task switches to every descriptor, directly, through task gates and by IRET with NT, and to tasks
   whose CS, SS, DS and LDT are every descriptor (SDM 3A 7.2-7.4). */
#include "tables.h"

static struct code call, jump, iret, interrupt;

/* Task gates, in the GDT and in the IDT, to every descriptor. */
static void through_gates(void)
{
    EACH_DESCRIPTOR(type, dpl, present)
        EACH_RING(cpl) {
            title("gate", type, dpl, present, cpl);
            for (u32 i = 0; i < 3; i++) {
                set_others();
                describe(TARGET_DATA + 8, type, dpl, present, TARGET);
                set_gate(gdt + S / 4, TARGET_DATA + 8, 0, TASK_GATE | RING3);
                set_gate(idt + 2 * 0x40, TARGET_DATA + 8, 0, TASK_GATE | RING3);
                in_ring(cpl, i == 0 ? jump : i == 1 ? call : interrupt);
                in.ebx = DATA;
                DATA32(DATA + 4) = S;
                in.eflags |= F_CF | F_NT;
                run();
                print(" %x.%x,%x,%x,%x,%x,%x,%x,%x", vector, error, link, other.link, other.eflags,
                      other16.link, other16.flags, access_of(TARGET_DATA + 8),
                      access_of(TSS_SNIPPET));
            }
        }
}

/* IRET with NT to every descriptor as the link, with every RPL. */
static void back_links(void)
{
    EACH_DESCRIPTOR(type, dpl, present)
        EACH_RING(cpl) {
            title("iret-nt", type, dpl, present, cpl);
            EACH_RING(rpl) {
                set_others();
                describe(S, type, dpl, present, TARGET);
                in_ring(cpl, iret);
                in.link = S | rpl;
                in.eflags |= F_NT | F_CF;
                run();
                print(" %x.%x,%x,%x,%x,%x,%x", vector, error, link, in.eflags, in.eip == iret.mark,
                      access_of(S), access_of(TSS_SNIPPET));
            }
        }
}

/* A register of the new task is every descriptor; the task is in ring 0, 3 or, for CS, its RPL. */
static void registers(u32 wide)
{
    static const char *const names[] = { "cs", "ss", "ds", "ldt", "ss3", "ds3" };
    for (u32 i = 0; i < COUNT(names); i++)
        EACH_DESCRIPTOR(type, dpl, present) {
            print("\ntask%u %s t%x d%u p%u:", wide ? 32 : 16, names[i], type, dpl, present);
            EACH_RING(rpl) {
                u32 ring = i == 0 ? rpl : i > 3 ? 3 : 0, which = i > 3 ? i - 3 : i;
                set_others();
                describe(S, type, dpl, present, KCODE);
                set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG | ring << 5);
                set_segment(TARGET_DATA, DATA, 0xFFFF, RW | ring << 5);
                other.cs = other16.cs = TARGET | ring;
                other.ss = data_of(ring);
                other.ds = other.es = other.fs = other.gs = data_of(3);
                other16.ss = TARGET_DATA | ring;
                other16.ds = other16.es = data_of(3);
                u32 *fields[] = { &other.cs, &other.ss, &other.ds, &other.ldt };
                u16 *fields16[] = { &other16.cs, &other16.ss, &other16.ds, &other16.ldt };
                *fields[which] = *fields16[which] = S | rpl;
                in_ring(0, call);
                in.ebx = DATA;
                DATA32(DATA + 4) = wide ? OTHER : OTHER16;
                run();
                print(" %x.%x,%x,%x,%x", vector, error, link, access_of(S),
                      wide ? other.eip : other16.ip);
            }
        }
    set_segment(TARGET, SNIPPETS, 0xFFFF, XR | BIG);
    set_segment(TARGET_DATA, DATA, 0xFFFF, RW);
}

void guest_main(void)
{
    prepare_tables();
    call = CODE32(MARK "lcall *(%ebx)");
    jump = CODE32(MARK "ljmp *(%ebx)");
    iret = CODE32(MARK "iret");
    interrupt = CODE32(MARK "int $0x40");
    through_gates();
    back_links();
    registers(1);
    registers(0);
    print("\n");
}
