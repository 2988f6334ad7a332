/* An NMI that arrives while one is handled waits for the IRET, and is taken at the instruction to
   which that returns (SDM 3A 6.7.1). */
#include "guest.h"

#define APIC(offset) (*(volatile u32 *)(0xFEE00000ul + (offset)))
enum { APIC_ID = 0x20, APIC_SVR = 0xF0, ICR_LOW = 0x300, ICR_HIGH = 0x310, NMI = 0x4400 };

static u64 taken, rip[2], passes[2];

static void send_nmi(void)
{
    APIC(ICR_HIGH) = APIC(APIC_ID);
    APIC(ICR_LOW) = NMI;
}

static int count_nmi(struct trap *t)
{
    if (t->vector != V_NMI)
        return 0;
    if (taken < 2) {
        rip[taken] = t->c.rip;
        passes[taken] = t->c.r[RBX];
    }
    if (!taken++)
        send_nmi();
    return 1;
}

/* The first NMI is the snippet's own; the handler sends the second. */
static void nested(int cpl)
{
    void *code = CODE("mov %edx, 0x310(%rcx); movl $0x4400, 0x300(%rcx);"
                      "1: dec %rbx; jnz 1b; nop");
    struct cpu c = at_cpl(cpl, code);
    c.r[RCX] = WINDOW;
    c.r[RDX] = APIC(APIC_ID);
    c.r[RBX] = 1000000;
    taken = 0;
    run(&c);
    CHECK(at("nested.taken", cpl), taken, 2);
    CHECK(at("nested.rip", cpl), rip[1], rip[0]);
    CHECK(at("nested.passes-between", cpl), passes[0] - passes[1], 0);
}

void guest_main(void)
{
    write_msr(MSR_APIC_BASE, read_msr(MSR_APIC_BASE) | 0x800);
    APIC(APIC_SVR) = 0x1FF;
    map4k(WINDOW, 0xFEE00000, P_P | P_W | P_U);
    trap_hook = count_nmi;
    EACH_CPL(cpl)
        nested(cpl);
}
