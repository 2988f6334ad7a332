/* RSP and RSI that march on without an access until they are far from every address that was checked.
   What an emulator of memory by host addresses takes for an access on the way may not be one. */
#include "guest.h"

static int tcg;
static const u16 words[2] UDATA = { 0x37F, 0x37E };

/* Whether an x87 store that raises an unmasked exception leaves its page alone. Intel's processors do;
   Zen 4 first looks whether the page may be written; QEMU stores whatever is raised. */
static int x87_is_quiet(void)
{
    struct cpu c = at_cpl3(CODE("fninit; fldcw 2(%rdi); fistl (%rsi); fnclex"));
    if (tcg)
        return 0;
    c.r[RDI] = (u64)words;
    c.r[RSI] = USER_RSP + (1ul << 37);
    run(&c);
    return trap.vector == V_END;
}

/* Strides of RSP or RSI that lead to pages of this guest's supervisor, if nothing notices that they
   leave their 64 GiB. Nothing is accessed on the way: RSP is misaligned with alignment checks on, or
   an x87 store that raises an unmasked exception stores nothing, or a mask is 0. Then there is one
   access, which faults by itself. */
static void test_quiet_marches(void)
{
    static const u32 masks[2][4] UDATA ALIGNED(16) = { { ~0u }, { 0 } };
    struct { const char *name; void *code; u64 rflags, error; int odd, x87; } const marches[] = {
        { "rsp-alignment", CODE("1: .rept 16; lea (%rsp,%rbx), %rsp; .endr; dec %rcx; jnz 1b;"
          MARK "mov -1(%rsp), %rdx"), F_AC, 0, 1, 0 },
        { "rsp-lea", CODE("1: .rept 16; lea 0x100000(%rsp), %rsp; .endr; dec %rcx; jnz 1b;"
          MARK "mov -1(%rsp), %rdx"), F_AC, 0, 1, 0 },
        { "rsp-x87", CODE("fninit; fldcw 2(%rdi); 1: .rept 16; lea 0x100000(%rsp), %rsp; .endr; fnclex;"
          "fistl (%rsp); dec %rcx; jnz 1b;" MARK "mov (%rsp), %rdx"), 0, 0, 0, 1 },
        { "rsp-mask", CODE("vpxor %xmm0, %xmm0, %xmm0; 1: .rept 16; lea 0x100000(%rsp), %rsp; .endr;"
          "vpmaskmovd %xmm1, %xmm0, (%rsp); dec %rcx; jnz 1b;" MARK "mov (%rsp), %rdx"), 0, 0, 0, 0 },
        { "rsi-x87", CODE("mov %rsp, %rsi; mov (%rsi), %rdx; fninit; jmp 1f; .balign 64; 1: lea -1(%rcx), %rax;"
          "neg %rax; sbb %eax, %eax; and $1, %eax; fnclex; fldcw (%rdi,%rax,2);"
          ".rept 16; add $0x100000, %rsi; .endr;" MARK "fistl (%rsi); dec %rcx; jnz 1b"), 0, PF_W, 0, 1 },
        { "rsi-mask", CODE("mov %rsp, %rsi; mov (%rsi), %rdx; jmp 1f; .balign 64; 1: lea -1(%rcx), %rax;"
          "neg %rax; sbb %eax, %eax; and $16, %eax; movdqa (%r12,%rax), %xmm0;"
          ".rept 16; add $0x100000, %rsi; .endr;" MARK "vpmaskmovd %xmm1, %xmm0, (%rsi); dec %rcx; jnz 1b"),
          0, PF_W, 0, 0 }
    };
    u64 start = USER_RSP & ~15ul;
    int quiet_x87 = x87_is_quiet();
    /* The supervisor has pages at the same offset in other slots, and in the host some strides away:
       regions are given in sequence. */
    run_code(3, CODE("push %rax; pop %rax"));
    for (u64 i = 0; i < 8; i++) {
        u64 other = (0x101 + i) << 36 | (start & ~0xFFFul);
        map4k(other, FREE_RAM + 0x20000, P_P | P_W);
        *(volatile u64 *)other = i;
    }
    write_cr0(read_cr0() | CR0_AM);
    for (u64 i = 0; i < sizeof marches / sizeof *marches; i++)
        for (u64 strides = 1; strides <= 10; strides++) {
            struct cpu c = at_cpl3(marches[i].code);
            if (marches[i].x87 && !quiet_x87)
                continue;
            c.rflags |= marches[i].rflags;
            c.r[RSP] = start + (u64)marches[i].odd;
            c.r[RBX] = 0x100000;
            c.r[RCX] = strides << 13;
            c.r[RDI] = (u64)words;
            c.r[R12] = (u64)masks;
            run(&c);
            char name[64];
            format_name(name, "quiet.%s.%lu", marches[i].name, strides);
            check_pf(name, marches[i].code, PF_U | marches[i].error, start + (strides << 37));
        }
    /* With a misaligned address, the fault is #AC. */
    void *first = CODE("lea 0x100000(%rsp), %rsp; jmp 1f; 1: lea -0x100000(%rsp), %rsp; jmp 1f; 1:"
                       MARK "pop %rdx");
    struct cpu c = at_cpl3(first);
    c.rflags |= F_AC;
    c.r[RSP] = start + 1;
    run(&c);
    if (!tcg)
        check_fault("quiet.alignment-check", first, V_AC, 0);
    write_cr0(read_cr0() & ~(u64)CR0_AM);
}

/* RSP in slots that hold nothing, canonical or not. */
static void test_unused_marches(void)
{
    void *code = CODE("1: .rept 16; lea 0x100000(%rsp), %rsp; .endr; dec %rcx; jnz 1b;" MARK "pop %rdx");
    static const u64 starts[] = { 0x0004000000001000, 0x0000700000001000, 0xFFFF900000001000,
                                  0x7FF0000000001000, 0x00007FF000000000, 0xFFF4000000000FF8 };
    EACH_CPL(cpl)
        for (u64 i = 0; i < sizeof starts / sizeof *starts; i++) {
            struct cpu c = at_cpl(cpl, code);
            u64 end = starts[i] + (8192ul << 24);
            c.r[RSP] = starts[i];
            c.r[RCX] = 8192;
            run(&c);
            char name[64];
            format_name(name, "unused.%lx", starts[i]);
            if ((u64)((i64)(end << 16) >> 16) == end)
                check_pf(at(name, cpl), code, cpl ? PF_U : 0, end);
            else if (!tcg)
                check_fault(at(name, cpl), code, V_SS, 0);
            CHECK(with(at(name, cpl), "rsp"), trap.c.r[RSP], end);
        }
}

void guest_main(void)
{
    tcg = under_tcg();
    test_quiet_marches();
    test_unused_marches();
}
