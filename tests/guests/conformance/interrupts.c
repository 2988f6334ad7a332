/* External interrupts through the 8259 from the 8254: where they are taken, the shadows of STI and
   MOV SS, HLT, and loops that only an interrupt can end. */
#include "guest.h"

enum { IRQ0 = 0x20, PIC1 = 0x20, PIC2 = 0xA0, PIT = 0x40, PIT_MODE = 0x43 };

static u64 taken, ticks_wanted;

static void start_pics(void)
{
    out8(PIC1, 0x11);
    out8(PIC1 + 1, IRQ0);
    out8(PIC1 + 1, 4);
    out8(PIC1 + 1, 1);
    out8(PIC2, 0x11);
    out8(PIC2 + 1, IRQ0 + 8);
    out8(PIC2 + 1, 2);
    out8(PIC2 + 1, 1);
    out8(PIC1 + 1, 0xFE);
    out8(PIC2 + 1, 0xFF);
}

static int requested(void)
{
    out8(PIC1, 0x0A);           /* OCW3: read IRR */
    return in8(PIC1) & 1;
}

static void end_of_interrupt(void)
{
    out8(PIC1, 0x20);
}

static void one_shot(u16 count)
{
    out8(PIT_MODE, 0x30);       /* channel 0, both bytes, mode 0 */
    out8(PIT, (u8)count);
    out8(PIT, (u8)(count >> 8));
}

static void periodic(u16 count)
{
    out8(PIT_MODE, 0x34);       /* mode 2 */
    out8(PIT, (u8)count);
    out8(PIT, (u8)(count >> 8));
}

static void timer_off(void)
{
    out8(PIT_MODE, 0x30);       /* a mode without a count does not run */
    start_pics();               /* forgets what was requested */
}

/* With IF = 0: a timer interrupt waits at the controller. */
static void make_pending(void)
{
    one_shot(100);
    for (u64 i = 0; i < 1000000 && !requested(); i++)
        ;
}

static int count_hook(struct trap *t)
{
    if (t->vector != IRQ0)
        return 0;
    end_of_interrupt();
    taken++;
    return 1;
}

/* Ends the snippet at the first interrupt. */
static int stop_hook(struct trap *t)
{
    if (t->vector == IRQ0)
        end_of_interrupt();
    return 0;
}

/* Ends a loop after ticks_wanted interrupts by setting its condition: RDX, or R15 where CPUID would
   overwrite that. */
static int tick_hook(struct trap *t)
{
    if (t->vector != IRQ0)
        return 0;
    end_of_interrupt();
    if (++taken == ticks_wanted)
        t->c.r[RDX] = t->c.r[R15] = 1;
    return 1;
}

static void pending_check(const char *name, int cpl, void *code, u64 flags, int is_taken)
{
    make_pending();
    trap_hook = stop_hook;
    run_flags(cpl, code, flags);
    trap_hook = 0;
    if (is_taken)
        check_fault(at(name, cpl), code, IRQ0, 0);
    else
        check_end(at(name, cpl), code);
    timer_off();
}

static void test_shadows(void)
{
    /* IRETQ with IF = 1: before the first instruction. */
    EACH_CPL(cpl) {
        pending_check("irq.at-iretq", cpl, CODE("inc %eax; nop"), F_IF, 1);
        CHECK(at("irq.at-iretq.nothing-ran", cpl), trap.c.r[RAX], 0);
        CHECK(at("irq.cs", cpl), trap.c.cs, cpl ? UCODE : KCODE);
        CHECK(at("irq.saved-if", cpl), trap.c.rflags, F_IF | F_1);
        CHECK(at("irq.handler-if", cpl), trap.entry_rflags & F_IF, 0);
        pending_check("irq.if-clear", cpl, CODE("inc %eax; nop"), 0, 0);
        pending_check("irq.sti-iopl3", cpl, CODE("sti; inc %eax;" MARK "inc %eax"), F_IOPL, 1);
    }
    pending_check("irq.sti-shadow", 0, CODE("sti; inc %eax;" MARK "inc %eax"), 0, 1);
    CHECK("irq.sti-shadow.one-ran", trap.c.r[RAX], 1);
    pending_check("irq.sti-cli", 0, CODE("sti; cli; inc %eax"), 0, 0);
    pending_check("irq.sti-sti", 0, CODE("sti; sti;" MARK "inc %eax; cli"), 0, 1);
    pending_check("irq.sti-jmp", 0, CODE("sti; jmp 1f; nop; 1:" MARK "nop; cli"), 0, 1);
    pending_check("irq.sti-ret", 0, CODE("lea 1f(%rip), %rcx; push %rcx; sti; ret; nop; 1:"
                                         MARK "nop; cli"), 0, 1);
    pending_check("irq.sti-hlt", 0, CODE("sti; hlt;" MARK "cli"), 0, 1);
    pending_check("irq.popf", 0, CODE("pushq $0x202; popfq;" MARK "inc %eax; cli"), 0, 1);
    pending_check("irq.popf-clear", 0, CODE("pushq $2; popfq; inc %eax"), 0, 0);
    pending_check("irq.sti-pushf", 0, CODE("sti; pushfq;" MARK "pop %rax; cli"), 0, 1);
    /* Of two shadows in a row only the first is sure (SDM 3A 6.8.3). */
    void *both = CODE("mov %ss, %ecx; sti; mov %ecx, %ss;" MARK "nop;" AFTER "nop; cli");
    make_pending();
    trap_hook = stop_hook;
    run_code(0, both);
    trap_hook = 0;
    CHECK("irq.sti-mov-ss", trap.vector, IRQ0);
    CHECK("irq.sti-mov-ss.rip",
          trap.c.rip == code_mark(both) || trap.c.rip == code_after(both), 1);
    timer_off();
    /* So a row of them holds nothing off for longer. */
    void *row = CODE("mov %ss, %ecx; sti; .rept 64; mov %ecx, %ss; .endr;" AFTER "nop; cli");
    make_pending();
    trap_hook = stop_hook;
    run_code(0, row);
    trap_hook = 0;
    CHECK("irq.row-of-mov-ss", trap.vector, IRQ0);
    CHECK("irq.row-of-mov-ss.early", trap.c.rip < code_after(row) - 100, 1);
    timer_off();
    pending_check("irq.sti-cpuid", 0, CODE("sti; cpuid;" MARK "nop; cli"), 0, 1);
    /* A fault under the shadow comes first, and its saved IF is set. */
    void *fault = CODE("sti;" MARK "ud2");
    make_pending();
    run_code(0, fault);
    check_fault("irq.sti-fault", fault, V_UD, 0);
    CHECK("irq.sti-fault.if", trap.c.rflags & F_IF, F_IF);
    timer_off();
}

static void test_hlt(void)
{
    void *hlt = CODE("sti; hlt; inc %eax; cli");
    taken = 0;
    trap_hook = count_hook;
    for (u64 i = 1; i <= 5; i++) {
        one_shot(2000);
        run_code(0, hlt);
        check_end("hlt.woken", hlt);
        CHECK("hlt.count", taken, i);
        CHECK("hlt.goes-on", trap.c.r[RAX], 1);
    }
    /* Several wake-ups: HLT in a loop until enough ticks. */
    periodic(2000);
    ticks_wanted = 10;
    taken = 0;
    trap_hook = tick_hook;
    void *loop = CODE("sti; 1: hlt; test %edx, %edx; jz 1b; cli");
    run_code(0, loop);
    trap_hook = 0;
    timer_off();
    check_end("hlt.loop", loop);
    CHECK("hlt.loop.ticks", taken >= 10, 1);
}

/* Loops without an exit or a memory access: an engine must find its way out of each. */
static void test_loops(void)
{
    struct { const char *name; void *code; } const loops[] = {
        { "self", CODE("1: test %edx, %edx; jz 1b") },
        { "counted", CODE("1: mov $1000, %ecx; 2: dec %ecx; jnz 2b; test %edx, %edx; jz 1b") },
        { "calls", CODE("jmp 1f; 3: ret; 1: call 3b; test %edx, %edx; jz 1b") },
        { "indirect", CODE("1: lea 2f(%rip), %rax; jmp *%rax; nop; 2: test %edx, %edx; jz 1b") },
        { "loop", CODE("1: mov $500, %ecx; 2: loop 2b; test %edx, %edx; jz 1b") },
        { "memory", CODE("1: incq -64(%rsp); test %edx, %edx; jz 1b") },
        { "stos", CODE("1: lea -2048(%rsp), %rdi; mov $64, %ecx; rep stosq; test %edx, %edx; jz 1b") },
        { "cpuid", CODE("1: xor %eax, %eax; cpuid; test %r15d, %r15d; jz 1b") },
        { "pushf", CODE("1: pushfq; pop %rax; test %edx, %edx; jz 1b") },
        { "far-apart", CODE("1: test %edx, %edx; jnz 2f; jmp 3f; .fill 5000, 1, 0x90; 3: jmp 1b; 2:") },
    };
    EACH_CPL(cpl)
        for (u64 i = 0; i < sizeof loops / sizeof *loops; i++) {
            char name[64];
            taken = 0;
            ticks_wanted = 4;
            trap_hook = tick_hook;
            periodic(3000);
            run_flags(cpl, loops[i].code, F_IF);
            trap_hook = 0;
            timer_off();
            format_name(name, "loop.%s", loops[i].name);
            check_end(at(name, cpl), loops[i].code);
            CHECK(at(with(name, "ticks"), cpl), taken >= 4, 1);
        }
}

/* Nothing that a loop computes is disturbed by the interrupts in it. */
static void test_integrity(void)
{
    void *code = CODE("mov $1, %rbx; mov $2, %rsi; mov $3, %rdi; mov $4, %r8; mov $5, %r9;"
                      "mov $6, %r10; mov $7, %r11; mov $8, %r12; mov $9, %r13;"
                      "movq %rbx, %xmm0; movq %r13, %xmm15; paddq %xmm0, %xmm15; std;"
                      "mov $300000, %ecx;"
                      "1: add %rbx, %r8; adc %r8, %r9; xor %r9, %r10; rol $7, %r10; sub %r10, %r11;"
                      "sbb %r11, %r12; push %r12; pop %r13; lea (%r13,%rsi,2), %rsi;"
                      "paddq %xmm15, %xmm0; inc %rdi; imul %rdi, %rbx; not %rbx;"
                      "dec %ecx; jnz 1b;"
                      "movq %xmm0, %rax; pushfq; pop %rbp; cld");
    struct cpu want, got;
    EACH_CPL(cpl) {
        run_code(cpl, code);
        want = trap.c;
        taken = 0;
        ticks_wanted = 0;
        trap_hook = count_hook;
        periodic(1193);
        run_flags(cpl, code, F_IF);
        trap_hook = 0;
        timer_off();
        got = trap.c;
        for (int r = 0; r < 16; r++) {
            char name[64];
            format_name(name, "integrity.r%d", r);
            CHECK(at(name, cpl), r == RBP ? got.r[r] & ~(u64)F_IF : got.r[r], want.r[r]);
        }
    }
}

/* A masked line stays pending and comes when the mask is lifted. */
static void test_mask(void)
{
    void *code = CODE("nop; nop; nop");
    make_pending();
    out8(PIC1 + 1, 0xFF);
    trap_hook = stop_hook;
    run_flags(0, code, F_IF);
    check_end("mask.held", code);
    out8(PIC1 + 1, 0xFE);
    run_flags(0, code, F_IF);
    check_trap_at("mask.lifted", (u64)code, IRQ0, 0);
    trap_hook = 0;
    /* Without an end of interrupt no further one of the line is delivered. */
    taken = 0;
    make_pending();
    void *stop = CODE("nop");
    run_flags(0, stop, F_IF);
    CHECK("eoi.first", trap.vector, IRQ0);
    make_pending();
    run_flags(0, stop, F_IF);
    CHECK("eoi.blocked", trap.vector, V_END);
    end_of_interrupt();
    trap_hook = stop_hook;
    run_flags(0, stop, F_IF);
    CHECK("eoi.then-second", trap.vector, IRQ0);
    trap_hook = 0;
    timer_off();
}

void guest_main(void)
{
    start_pics();
    test_shadows();
    test_hlt();
    test_loops();
    test_integrity();
    test_mask();
}
