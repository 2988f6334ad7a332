/* Each exception with its vector, error code, saved RIP and unchanged registers, at both
   privileges (SDM 3A ch. 6). #DB is in debug.c, #PF in paging_*.c, delivery in delivery.c. */
#include "guest.h"

static u64 saved_cr0, saved_cr4;

struct fault {
    const char *name;
    void *code;
    u8 vector;
    u8 error;
};

static void fault_checks(const struct fault *faults, u64 count)
{
    for (u64 i = 0; i < count; i++)
        EACH_CPL(cpl) {
            struct cpu c = at_cpl(cpl, faults[i].code);
            for (int r = 0; r < 16; r++)
                if (r != RSP)
                    c.r[r] = 0x0101010101010101 * (u64)(r + 1);
            c.r[RCX] = 0;
            c.r[RAX] = 0x8000000000000000;
            c.r[RDX] = ~0ul;
            c.r[RDI] = (u64)user_stack;
            c.rflags |= F_CF | F_ZF;
            run(&c);
            check_fault(at(faults[i].name, cpl), faults[i].code, faults[i].vector,
                        faults[i].error);
            u64 changed = 0;
            for (int r = 0; r < 16; r++)
                changed |= (u64)(trap.c.r[r] != c.r[r]) << r;
            CHECK(at(with(faults[i].name, "registers"), cpl), changed, 0);
            CHECK(at(with(faults[i].name, "flags"), cpl), trap.c.rflags & ~(u64)F_RF, c.rflags);
        }
}

static void test_divide(void)
{
    const struct fault faults[] = {
        { "de.div8", CODE(MARK "div %cl"), V_DE, 0 },
        { "de.div16", CODE(MARK "div %cx"), V_DE, 0 },
        { "de.div32", CODE(MARK "div %ecx"), V_DE, 0 },
        { "de.div64", CODE(MARK "div %rcx"), V_DE, 0 },
        { "de.idiv64-zero", CODE("nop;" MARK "idiv %rcx"), V_DE, 0 },
        { "de.div-ah", CODE(MARK "div %ch"), V_DE, 0 },
        { "de.idiv-min-by-minus-one", CODE(MARK "idiv %rdx"), V_DE, 0 },
        { "de.div-quotient-too-large", CODE(MARK "div %r8"), V_DE, 0 },
        { "de.div-memory", CODE(MARK "divq (%rdi)"), V_DE, 0 },
        { "de.div-r9", CODE(MARK "div %r9d"), V_DE, 0 },
    };
    memset(user_stack, 0, 8);
    fault_checks(faults, sizeof faults / sizeof *faults);
}

#define UD(name, bytes) { "ud." name, CODE(MARK ".byte " bytes), V_UD, 0 }

static void test_undefined(void)
{
    const struct fault faults[] = {
        UD("ud2", "0x0F, 0x0B"), UD("ud1", "0x0F, 0xB9, 0xC0"), UD("ud0", "0x0F, 0xFF, 0xC0"),
        UD("daa", "0x27"), UD("das", "0x2F"), UD("aaa", "0x37"), UD("aas", "0x3F"),
        UD("pusha", "0x60"), UD("popa", "0x61"), UD("82", "0x82, 0xC0, 1"),
        UD("far-call", "0x9A, 0, 0, 0, 0, 0, 0"), UD("far-jmp", "0xEA, 0, 0, 0, 0, 0, 0"),
        UD("into", "0xCE"), UD("salc", "0xD6"), UD("aam", "0xD4, 10"), UD("aad", "0xD5, 10"),
        UD("0f04", "0x0F, 0x04"), UD("0f0a", "0x0F, 0x0A"), UD("0f0c", "0x0F, 0x0C"),
        UD("0f24", "0x0F, 0x24, 0xC0"), UD("0f36", "0x0F, 0x36"), UD("0f39", "0x0F, 0x39"),
        UD("rsm", "0x0F, 0xAA"),
        UD("lock-mov", "0xF0, 0x48, 0x89, 0x07"), UD("lock-add-reg", "0xF0, 0x01, 0xC0"),
        UD("lock-nop", "0xF0, 0x90"), UD("lock-load-add", "0xF0, 0x03, 0x07"),
        UD("lock-cmp", "0xF0, 0x39, 0x07"), UD("lock-bt", "0xF0, 0x0F, 0xA3, 0x07"),
        UD("lock-shl", "0xF0, 0xD1, 0x27"), UD("lock-push", "0xF0, 0x50"),
        UD("lea-reg", "0x8D, 0xC0"), UD("cmpxchg8b-reg", "0x0F, 0xC7, 0xC9"),
        UD("lgdt-reg", "0x0F, 0x01, 0xD7"), UD("sgdt-reg", "0x0F, 0x01, 0xC7"),
        UD("mov-cs", "0x8E, 0xC8"), UD("mov-from-seg6", "0x8C, 0xF0"),
        UD("mov-seg7", "0x8E, 0xF8"), UD("group5-7", "0xFF, 0xFF"), UD("group4-2", "0xFE, 0xD0"),
        UD("far-call-reg", "0xFF, 0xD8"), UD("far-jmp-reg", "0xFF, 0xE8"),
        UD("pop-group-1", "0x8F, 0xC8, 0x00"), UD("group11-1", "0xC7, 0xC8, 0, 0, 0, 0"),
        UD("bt-group-3", "0x0F, 0xBA, 0xD8, 1"), UD("ldmxcsr-reg-like", "0x66, 0x0F, 0xAE, 0xD0"),
        UD("vex-lock", "0xF0, 0xC5, 0xF8, 0x58, 0xC0"),
        UD("vex-66", "0x66, 0xC5, 0xF8, 0x58, 0xC0"), UD("vex-f3", "0xF3, 0xC5, 0xF8, 0x58, 0xC0"),
        UD("vex-rex", "0x48, 0xC5, 0xF8, 0x58, 0xC0"), UD("vex-map-0", "0xC4, 0xE0, 0x78, 0x58, 0xC0"),
        UD("vex-vvvv", "0xC5, 0xF0, 0x10, 0x07"),      /* VMOVUPS load names a second source */
        UD("evex", "0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC0"),
    };
    fault_checks(faults, sizeof faults / sizeof *faults);
}

static void test_length(void)
{
    const struct fault faults[] = {
        { "gp.length-16", CODE(MARK ".fill 15, 1, 0x66; nop"), V_GP, 0 },
        { "gp.length-prefixes", CODE(MARK ".fill 20, 1, 0x2E; nop"), V_GP, 0 },
    };
    fault_checks(faults, 2);
    void *longest = CODE(".fill 14, 1, 0x66; nop");
    EACH_CPL(cpl) {
        run_code(cpl, longest);
        check_end(at("length-15", cpl), longest);
    }
}

static void test_breakpoint(void)
{
    void *int3 = CODE(MARK "int3" AFTER "nop"), *int_3 = CODE(".byte 0xCD, 3" AFTER "nop");
    void *int4 = CODE("int $4" AFTER "nop"), *icebp = CODE(".byte 0xF1" AFTER "nop");
    run_code(0, int3);
    check_trap_at("bp.int3.cpl0", code_after(int3), V_BP, 0);
    run_code(0, int_3);
    check_trap_at("bp.int-3.cpl0", code_after(int_3), V_BP, 0);
    run_code(0, int4);
    check_trap_at("of.int-4.cpl0", code_after(int4), V_OF, 0);
    run_code(3, int3);
    check_fault("bp.gate-dpl0.cpl3", int3, V_GP, V_BP * 8 + 2);
    set_gate(V_BP, stub_address(V_BP), KCODE, GATE_TRAP, 3, 1);
    run_code(3, int3);
    check_trap_at("bp.gate-dpl3.cpl3", code_after(int3), V_BP, 0);
    default_gate(V_BP);
    EACH_CPL(cpl) {
        run_code(cpl, icebp);
        check_trap_at(at("db.icebp", cpl), code_after(icebp), V_DB, 0);
    }
}

static void test_device_not_available(void)
{
    struct { const char *name; void *code; u8 sse; } const units[] = {
        { "fnop", CODE("fnop"), 0 }, { "fld1", CODE("fld1"), 0 }, { "fninit", CODE("fninit"), 0 },
        { "fnstsw", CODE("fnstsw %ax"), 0 }, { "fnstcw", CODE("fnstcw -16(%rsp)"), 0 },
        { "emms", CODE("emms"), 2 }, { "movq-mmx", CODE("movq %mm0, %mm1"), 2 },
        { "xorps", CODE("xorps %xmm0, %xmm0"), 1 }, { "movaps", CODE("movaps %xmm1, %xmm0"), 1 },
        { "movd", CODE("movd %eax, %xmm0"), 1 }, { "ldmxcsr", CODE("ldmxcsr -16(%rsp)"), 1 },
        { "stmxcsr", CODE("stmxcsr -16(%rsp)"), 1 }, { "cvtsi2sd", CODE("cvtsi2sd %rax, %xmm0"), 1 },
    };
    EACH_CPL(cpl)
        for (u64 i = 0; i < sizeof units / sizeof *units; i++) {
            char name[64];
            format_name(name, "nm.%s", units[i].name);
            write_cr0(saved_cr0 | CR0_TS);
            run_code(cpl, units[i].code);
            check_fault(at(with(name, "ts"), cpl), units[i].code, V_NM, 0);
            write_cr0((saved_cr0 | CR0_EM) & ~(u64)CR0_TS);
            run_code(cpl, units[i].code);
            check_fault(at(with(name, "em"), cpl), units[i].code, units[i].sse ? V_UD : V_NM, 0);
            write_cr0(saved_cr0);
            write_cr4(saved_cr4 & ~(u64)(CR4_OSFXSR | CR4_OSXSAVE));
            run_code(cpl, units[i].code);
            if (units[i].sse == 1)
                check_fault(at(with(name, "no-osfxsr"), cpl), units[i].code, V_UD, 0);
            else
                CHECK(at(with(name, "no-osfxsr"), cpl), trap.vector, V_END);
            write_cr4(saved_cr4);
        }
    void *wait = CODE("fwait");
    EACH_CPL(cpl) {
        write_cr0((saved_cr0 | CR0_TS) & ~(u64)CR0_MP);
        run_code(cpl, wait);
        check_end(at("nm.fwait.ts-no-mp", cpl), wait);
        write_cr0(saved_cr0 | CR0_TS | CR0_MP);
        run_code(cpl, wait);
        check_fault(at("nm.fwait.ts-mp", cpl), wait, V_NM, 0);
        write_cr0((saved_cr0 | CR0_EM) & ~(u64)CR0_TS);
        run_code(cpl, wait);
        check_end(at("nm.fwait.em", cpl), wait);
        /* These are neither x87 nor vector instructions. */
        write_cr0(saved_cr0 | CR0_TS);
        void *others = CODE("prefetcht0 (%rsp); mfence; lfence; pause; movnti %eax, -64(%rsp)");
        run_code(cpl, others);
        check_end(at("nm.not-by-fences", cpl), others);
        asm volatile("clts");
        CHECK("clts", read_cr0(), saved_cr0);
        write_cr0(saved_cr0);
    }
}

static void test_x87_error(void)
{
    void *code = CODE("fninit; fldz; movw $0x37B, -16(%rsp); fldcw -16(%rsp); fld1;"
                      "fdiv %st(1), %st; nop; lea 1(%rcx), %rcx;" MARK "fld1");
    EACH_CPL(cpl) {
        run_code(cpl, code);
        check_fault(at("mf.next-x87", cpl), code, V_MF, 0);
        CHECK(at("mf.others-run-first", cpl), trap.c.r[RCX], 1);
        asm volatile("fnclex");
    }
    void *fwait = CODE("fninit; fldz; movw $0x37B, -16(%rsp); fldcw -16(%rsp); fld1;"
                       "fdiv %st(1), %st; fnstsw %ax; fnstcw -16(%rsp);" MARK "fwait");
    EACH_CPL(cpl) {
        run_code(cpl, fwait);
        check_fault(at("mf.fwait", cpl), fwait, V_MF, 0);
        CHECK(at("mf.status-es-ze", cpl), trap.c.r[RAX] & 0x84, 0x84);
        asm volatile("fnclex");
    }
    asm volatile("fninit");
}

static void test_simd_error(void)
{
    void *code = CODE("movl $0x1D80, -16(%rsp); ldmxcsr -16(%rsp); xorps %xmm1, %xmm1;"
                      "mov $0x3F800000, %eax; movd %eax, %xmm0; movaps %xmm0, %xmm2;"
                      MARK "divss %xmm1, %xmm0");
    EACH_CPL(cpl) {
        run_code(cpl, code);
        check_fault(at("xm.divide", cpl), code, V_XM, 0);
        u32 mxcsr, result;
        asm volatile("stmxcsr %0; movd %%xmm0, %1" : "=m"(mxcsr), "=r"(result));
        CHECK(at("xm.mxcsr-ze", cpl), mxcsr, 0x1D84);
        CHECK(at("xm.destination-kept", cpl), result, 0x3F800000);
        write_cr4(saved_cr4 & ~(u64)CR4_OSXMMEXCPT);
        run_code(cpl, code);
        check_fault(at("xm.no-osxmmexcpt", cpl), code, V_UD, 0);
        write_cr4(saved_cr4);
        void *reserved = CODE("movl $0x10000, -16(%rsp);" MARK "ldmxcsr -16(%rsp)");
        run_code(cpl, reserved);
        check_fault(at("gp.mxcsr-reserved", cpl), reserved, V_GP, 0);
    }
    u32 normal = 0x1F80;
    asm volatile("ldmxcsr %0" :: "m"(normal));
}

/* CR0.AM and RFLAGS.AC at CPL 3. */
static void test_alignment(void)
{
    void *codes[] = { CODE("mov 1(%rdi), %eax"), CODE("mov %rax, 4(%rdi)"), CODE("mov %ax, 1(%rdi)"),
                      CODE("lock incl 2(%rdi)"), CODE("push 4(%rdi)"),
                      CODE("fnstenv 2(%rdi)"), CODE("fnsave 2(%rdi)") };
    void *aligned = CODE("mov 4(%rdi), %eax; mov %rax, 8(%rdi); mov %ax, 2(%rdi); mov %al, 1(%rdi);"
                         "fnstenv 4(%rdi); data16 fnstenv 2(%rdi);"
                         /* Unaligned, MOVUPS is checked or not as the processor likes (SDM 2B). */
                         "movups 16(%rdi), %xmm0");
    for (int am = 0; am < 2; am++)
        for (int ac = 0; ac < 2; ac++)
            EACH_CPL(cpl) {
                char name[64];
                write_cr0(am ? saved_cr0 | CR0_AM : saved_cr0);
                for (int i = 0; i < 7; i++) {
                    struct cpu c = at_cpl(cpl, codes[i]);
                    c.r[RDI] = (u64)user_stack;
                    c.rflags |= ac ? F_AC : 0;
                    run(&c);
                    format_name(name, "ac.am%d.ac%d.access%d", am, ac, i);
                    if (am && ac && cpl)
                        check_fault(at(name, cpl), codes[i], V_AC, 0);
                    else
                        check_end(at(name, cpl), codes[i]);
                }
                struct cpu c = at_cpl(cpl, aligned);
                c.r[RDI] = (u64)user_stack;
                c.rflags |= ac ? F_AC : 0;
                run(&c);
                format_name(name, "ac.am%d.ac%d.aligned", am, ac);
                check_end(at(name, cpl), aligned);
            }
    /* An address that is not canonical comes first. */
    void *nowhere[] = { CODE(MARK "mov 1(%rdi), %eax"), CODE(MARK "mov 1(%rdi), %fs"),
                        CODE(MARK "lar 1(%rdi), %eax"), CODE(MARK "fldcw 1(%rdi)") };
    write_cr0(saved_cr0 | CR0_AM);
    for (int i = 0; i < 4; i++) {
        char name[64];
        struct cpu c = at_cpl3(nowhere[i]);
        c.r[RDI] = 0x800000000000;
        c.rflags |= F_AC;
        run(&c);
        format_name(name, "ac.non-canonical%d", i);
        check_fault(name, nowhere[i], V_GP, 0);
    }
    write_cr0(saved_cr0);
    const struct fault faults[] = {
        { "gp.movaps-misaligned", CODE(MARK "movaps 8(%rdi), %xmm0"), V_GP, 0 },
        { "gp.movaps-store-misaligned", CODE(MARK "movaps %xmm0, 4(%rdi)"), V_GP, 0 },
        { "gp.paddd-misaligned", CODE(MARK "paddd 8(%rdi), %xmm0"), V_GP, 0 },
        { "gp.cmpxchg16b-misaligned", CODE(MARK "cmpxchg16b 8(%rdi)"), V_GP, 0 },
        { "gp.fxsave-misaligned", CODE(MARK "fxsave 8(%rdi)"), V_GP, 0 },
    };
    fault_checks(faults, sizeof faults / sizeof *faults);
}

/* Where #AC and #PF meet, a processor may raise either, but the same wherever the address lies. */
static void test_alignment_of_absent_pages(void)
{
    const struct { const char *name; void *code; } codes[] = {
        { "load", CODE("mov 1(%rdi), %eax") }, { "store", CODE("mov %rax, 4(%rdi)") },
        { "push", CODE("lea 0x101(%rdi), %rsp;" MARK "push %rax") },
    };
    write_cr0(saved_cr0 | CR0_AM);
    for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
        struct cpu c = at_cpl3(codes[i].code);
        c.rflags |= F_AC;
        c.r[RDI] = (u64)user_stack + 0x40000000;
        run(&c);
        u64 vector = trap.vector;
        CHECK(with("ac.absent", codes[i].name), vector == V_AC || vector == V_PF, 1);
        c.r[RDI] = 0x300000000000 + (i << 40);
        run(&c);
        CHECK(with("ac.absent.far", codes[i].name), trap.vector, vector);
        check_trap_at(with("ac.absent.far.at", codes[i].name), code_mark(codes[i].code), vector,
                      vector == V_AC ? 0 : trap.error);
    }
    /* The base is canonical and mapped, the operand is not canonical. */
    map4k(0x7FFFFFFFF000, FREE_RAM, P_P | P_W | P_U);
    void *beyond = CODE("mov (%rdi), %al;" MARK "mov 0x1001(%rdi), %eax");
    struct cpu c = at_cpl3(beyond);
    c.rflags |= F_AC;
    c.r[RDI] = 0x7FFFFFFFF000;
    run(&c);
    check_fault("ac.beyond-canonical", beyond, V_GP, 0);
    write_cr0(saved_cr0);
}

/* Privileged instructions at CPL 3. */
static void test_privileged(void)
{
    struct { const char *name; void *code; } const privileged[] = {
        { "hlt", CODE("hlt") }, { "lgdt", CODE("lgdt (%rsp)") }, { "lidt", CODE("lidt (%rsp)") },
        { "lldt", CODE("lldt %ax") }, { "ltr", CODE("ltr %ax") }, { "lmsw", CODE("lmsw %ax") },
        { "clts", CODE("clts") }, { "invd", CODE("invd") }, { "wbinvd", CODE("wbinvd") },
        { "invlpg", CODE("invlpg (%rsp)") }, { "mov-from-cr0", CODE("mov %cr0, %rax") },
        { "mov-to-cr0", CODE("mov %rax, %cr0") }, { "mov-to-cr3", CODE("mov %rax, %cr3") },
        { "mov-from-cr8", CODE("mov %cr8, %rax") }, { "mov-from-cr2", CODE("mov %cr2, %rax") },
        { "mov-to-cr4", CODE("mov %rax, %cr4") }, { "mov-from-dr7", CODE("mov %db7, %rax") },
        { "mov-to-dr0", CODE("mov %rax, %db0") }, { "rdmsr", CODE("rdmsr") },
        { "wrmsr", CODE("wrmsr") }, { "swapgs", CODE("swapgs") }, { "sysret", CODE("sysretq") },
        { "cli", CODE("cli") }, { "sti", CODE("sti") }, { "in", CODE("in $0x80, %al") },
        { "out", CODE("out %al, $0x80") }, { "insb", CODE("insb") }, { "outsb", CODE("outsb") },
    };
    for (u64 i = 0; i < sizeof privileged / sizeof *privileged; i++) {
        char name[64];
        format_name(name, "gp.cpl3.%s", privileged[i].name);
        run_code(3, privileged[i].code);
        check_fault(name, privileged[i].code, V_GP, 0);
    }
    /* Privilege is checked before the operand is touched. */
    void *code = CODE("mov $0x8000000000000000, %rbx;" MARK "lgdt (%rbx)");
    run_code(3, code);
    check_fault("gp.cpl3.lgdt-bad-address", code, V_GP, 0);
    code = CODE("mov $0x123456789000, %rbx;" MARK "lidt (%rbx)");
    run_code(3, code);
    check_fault("gp.cpl3.lidt-unmapped", code, V_GP, 0);
}

void guest_main(void)
{
    saved_cr0 = read_cr0();
    saved_cr4 = read_cr4();
    test_divide();
    test_undefined();
    test_length();
    test_breakpoint();
    test_device_not_available();
    test_x87_error();
    test_simd_error();
    test_alignment();
    test_alignment_of_absent_pages();
    test_privileged();
}
