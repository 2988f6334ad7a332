/* PUSHF shows the guest's IF and IOPL at both privileges; POPF changes at CPL 3 only what it may,
   silently (SDM 2B, POPF, table 4-15). CLI and STI obey IOPL. */
#include "guest.h"

enum { USER_FLAGS = F_ARITH | F_DF | F_NT | F_AC | F_ID };

static const u64 images[] = {
    0, F_IF, F_IOPL, F_IF | F_IOPL, F_IF | 0x1000, 0x2000, F_NT, F_AC, F_ID, F_DF,
    F_ARITH, F_CF, F_PF, F_AF, F_ZF, F_SF, F_OF,
    USER_FLAGS | F_IF | F_IOPL
};
enum { IMAGES = sizeof images / sizeof images[0] };

static void test_pushf(void)
{
    void *pushfq = CODE("pushfq; mov (%rsp), %rax; cld");
    void *pushfw = CODE("movq $-1, -8(%rsp); pushfw; mov -6(%rsp), %rax; cld");
    for (int i = 0; i < IMAGES; i++)
        EACH_CPL(cpl) {
            char name[64];
            format_name(name, "pushf.%lx", images[i]);
            run_flags(cpl, pushfq, images[i]);
            CHECK(at(with(name, "value"), cpl), trap.c.r[RAX], images[i] | F_1);
            CHECK(at(with(name, "rsp"), cpl), trap.c.r[RSP], (cpl ? USER_RSP : KERNEL_RSP) - 8);
            run_flags(cpl, pushfw, images[i]);
            CHECK(at(with(name, "w-rsp"), cpl), trap.c.r[RSP], (cpl ? USER_RSP : KERNEL_RSP) - 2);
            CHECK(at(with(name, "w-value"), cpl), trap.c.r[RAX] >> 32,
                  0xFFFF | ((images[i] | F_1) & 0xFFFF) << 16);
        }
    /* RF is pushed as 0: here it is set by the IRETQ that starts the snippet. */
    run_flags(0, pushfq, F_RF);
    CHECK("pushf.rf-as-zero", trap.c.r[RAX], F_1);
}

/* POPF of `image` on flags `before`: the flags after. */
static u64 popf(int cpl, int wide, u64 before, u64 image)
{
    static void *code[2];
    code[0] = CODE("push %rax; popfw; lea 6(%rsp), %rsp");
    code[1] = CODE("push %rax; popfq");
    struct cpu c = at_cpl(cpl, code[wide]);
    c.rflags = before | F_1;
    c.r[RAX] = image;
    run(&c);
    if (trap.vector != V_END || trap.c.r[RSP] != (cpl ? USER_RSP : KERNEL_RSP))
        return 0xBAD00000 | trap.vector;
    return trap.c.rflags;
}

static void test_popf(void)
{
    u64 all = USER_FLAGS | F_IF | F_IOPL, high = F_AC | F_ID;
    CHECK("popf.cpl0.sets-all", popf(0, 1, 0, all), all | F_1);
    CHECK("popf.cpl0.clears-all", popf(0, 1, all, 0), F_1);
    CHECK("popf.cpl0.reserved", popf(0, 1, 0, 0xFFFFFFFFFFC08028 | F_CF), F_CF | F_1);
    CHECK("popf.cpl0.rf-vm", popf(0, 1, 0, F_RF | F_VM), F_1);
    CHECK("popf.cpl0.word-sets", popf(0, 0, 0, all), (all & ~high) | F_1);
    CHECK("popf.cpl0.word-keeps-high", popf(0, 0, all, 0), high | F_1);

    CHECK("popf.cpl3.sets-no-if-iopl", popf(3, 1, 0, all), USER_FLAGS | F_1);
    CHECK("popf.cpl3.keeps-if", popf(3, 1, F_IF, 0), F_IF | F_1);
    CHECK("popf.cpl3.keeps-if-with-iopl2", popf(3, 1, F_IF | 0x2000, 0), F_IF | 0x2000 | F_1);
    CHECK("popf.cpl3.iopl3-clears-if", popf(3, 1, F_IF | F_IOPL, 0), F_IOPL | F_1);
    CHECK("popf.cpl3.iopl3-sets-if", popf(3, 1, F_IOPL, F_IF), F_IF | F_IOPL | F_1);
    CHECK("popf.cpl3.iopl3-keeps-iopl", popf(3, 1, F_IOPL, 0x1000), F_IOPL | F_1);
    CHECK("popf.cpl3.clears-user", popf(3, 1, USER_FLAGS, 0), F_1);
    CHECK("popf.cpl3.word-sets", popf(3, 0, 0, all), (USER_FLAGS & ~high) | F_1);
    CHECK("popf.cpl3.word-keeps-if", popf(3, 0, F_IF | F_AC, 0), F_IF | F_AC | F_1);
    CHECK("popf.cpl3.rf-vm", popf(3, 1, 0, F_RF | F_VM), F_1);
}

static void test_cli_sti(void)
{
    void *cli = CODE("cli"), *sti = CODE("sti; nop");
    run_flags(0, cli, F_IF);
    CHECK("cli.cpl0", trap.c.rflags, F_1);
    run_flags(0, sti, 0);
    CHECK("sti.cpl0", trap.c.rflags, F_IF | F_1);
    for (u64 iopl = 0; iopl < 3; iopl++) {
        char name[64];
        format_name(name, "iopl%lu", iopl);
        run_flags(3, cli, F_IF | iopl << 12);
        check_fault(with("cli.cpl3", name), cli, V_GP, 0);
        CHECK(with("cli.cpl3.flags", name), trap.c.rflags & ~F_RF, F_IF | iopl << 12 | F_1);
        run_flags(3, sti, iopl << 12);
        check_fault(with("sti.cpl3", name), sti, V_GP, 0);
    }
    run_flags(3, cli, F_IF | F_IOPL);
    CHECK("cli.cpl3.iopl3", trap.c.rflags, F_IOPL | F_1);
    run_flags(3, sti, F_IOPL);
    CHECK("sti.cpl3.iopl3", trap.c.rflags, F_IF | F_IOPL | F_1);
}

/* Flags survive what an engine may insert between them and their use. */
static void test_flags_kept(void)
{
    void *code = CODE("mov (%rsp), %rax; push %rax; lea 8(%rsp), %rsp; mov %rax, -64(%rsp);"
                      "pushfq; pop %rdx; mov %ss, %ecx; jmp 1f; 1: call 2f; jmp 3f; 2: ret; 3:");
    EACH_CPL(cpl) {
        run_flags(cpl, code, F_ARITH | F_DF);
        CHECK(at("flags-kept.all", cpl), trap.c.rflags, F_ARITH | F_DF | F_1);
        CHECK(at("flags-kept.seen", cpl), trap.c.r[RDX], F_ARITH | F_DF | F_1);
        run_flags(cpl, code, 0);
        CHECK(at("flags-kept.none", cpl), trap.c.rflags, F_1);
    }
    void *lahf = CODE("sahf; lahf; mov %ah, %dl; clc; lahf");
    run_with(0, lahf, 0xFF00, 0, 0);
    CHECK("sahf.lahf", trap.c.r[RDX], 0xD7);
    CHECK("clc.lahf", trap.c.r[RAX], 0xD600);
}

void guest_main(void)
{
    test_pushf();
    test_popf();
    test_cli_sti();
    test_flags_kept();
}
