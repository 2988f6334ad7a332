/* Control registers, EFER, unknown MSRs, the time-stamp counter, XCR0: what may be written, what
   reads back, what is refused (SDM 3A 2.5, 2.6; vol. 4). */
#include "guest.h"

static u64 saved_cr0, saved_cr4, saved_efer;

static void refuse(const char *name, void *code, u64 value)
{
    run_with(0, code, value, 0, 0);
    check_fault(name, code, V_GP, 0);
}

/* A value that QEMU's TCG takes as it is, and does not survive. */
static void refuse_fatal(const char *name, void *code, u64 value)
{
    if (under_tcg())
        skip(name, "QEMU does not check this write, and goes astray");
    else
        refuse(name, code, value);
}

static void test_cr0(void)
{
    void *code = CODE("mov %rax, %cr0");
    refuse_fatal("cr0.pe-clear", code, saved_cr0 & ~(u64)CR0_PE);
    refuse_fatal("cr0.pg-clear", code, saved_cr0 & ~CR0_PG);
    refuse("cr0.nw-without-cd", code, saved_cr0 | CR0_NW);
    refuse("cr0.high-half", code, saved_cr0 | 1ul << 32);
    CHECK("cr0.kept", read_cr0(), saved_cr0);
    write_cr0(saved_cr0 | CR0_CD);
    CHECK("cr0.cd", read_cr0(), saved_cr0 | CR0_CD);
    write_cr0(saved_cr0 & ~(u64)CR0_ET);
    CHECK("cr0.et-always-1", read_cr0(), saved_cr0);
    write_cr0(saved_cr0 | CR0_TS | CR0_EM | CR0_AM);
    CHECK("cr0.ts-em-am", read_cr0(), saved_cr0 | CR0_TS | CR0_EM | CR0_AM);
    write_cr0(saved_cr0 & ~(u64)(CR0_MP | CR0_NE | CR0_WP));
    CHECK("cr0.cleared", read_cr0(), saved_cr0 & ~(u64)(CR0_MP | CR0_NE | CR0_WP));
    write_cr0(saved_cr0);

    void *lmsw = CODE("lmsw %ax");
    run_with(0, lmsw, 0xFFF0 | CR0_TS, 0, 0);
    CHECK("lmsw.only-low-four", read_cr0(), (saved_cr0 & ~(u64)CR0_MP) | CR0_TS);
    CHECK("lmsw.cannot-clear-pe", read_cr0() & CR0_PE, CR0_PE);
    asm volatile("clts");
    CHECK("clts", read_cr0(), saved_cr0 & ~(u64)CR0_MP);
    write_cr0(saved_cr0);
    /* The register field alone counts; mod is ignored. */
    void *mod = CODE("xor %eax, %eax; .byte 0x0F, 0x20, 0x00");
    run_code(0, mod);
    CHECK("mov-cr.mod-ignored", trap.c.r[RAX], saved_cr0);
    void *high = CODE("mov %cr0, %r9; mov %r9, %cr0; mov %cr4, %r15; smsw %r10d");
    run_code(0, high);
    CHECK("mov-cr.r9", trap.c.r[R9], saved_cr0);
    CHECK("mov-cr.r15", trap.c.r[R15], saved_cr4);
    CHECK("smsw.r10d", trap.c.r[R10], saved_cr0);
}

static void test_cr3(void)
{
    void *code = CODE("mov %rax, %cr3");
    u64 cr3 = read_cr3(), width = cpuid(0x80000008, 0).eax & 0xFF;
    refuse_fatal("cr3.reserved-bit", code, cr3 | 1ul << width);
    refuse_fatal("cr3.bit51", code, cr3 | 1ul << 51);
    refuse_fatal("cr3.bit62", code, cr3 | 1ul << 62);
    refuse_fatal("cr3.bit63-without-pcid", code, cr3 | 1ul << 63);
    write_cr3(cr3 | P_PWT | P_PCD);
    CHECK("cr3.pwt-pcd", read_cr3(), cr3 | P_PWT | P_PCD);
    write_cr3(cr3);
    CHECK("cr3.kept", read_cr3(), cr3);
    write_cr2(0x123456789ABCDEF0);
    CHECK("cr2.any-value", read_cr2(), 0x123456789ABCDEF0);
}

static void test_cr4(void)
{
    void *code = CODE("mov %rax, %cr4");
    struct cpuid f1 = cpuid(1, 0), f7 = cpuid(7, 0);
    refuse_fatal("cr4.pae-clear", code, saved_cr4 & ~(u64)CR4_PAE);
    refuse_fatal("cr4.high-half", code, saved_cr4 | 1ul << 32);
    refuse_fatal("cr4.bit31", code, saved_cr4 | 1ul << 31);
    refuse_fatal("cr4.bit15", code, saved_cr4 | 1ul << 15);
    refuse_fatal("cr4.bit19-25", code, saved_cr4 | 1ul << 25);
    refuse_fatal("cr4.la57-in-long-mode", code, saved_cr4 | 1ul << 12);
    struct { const char *name; u32 there; u64 bit; } const features[] = {
        { "vmxe", f1.ecx & 1 << 5, 1 << 13 }, { "smxe", f1.ecx & 1 << 6, 1 << 14 },
        { "umip", f7.ecx & 1 << 2, CR4_UMIP }, { "fsgsbase", f7.ebx & 1, CR4_FSGSBASE },
        { "smep", f7.ebx & 1 << 7, CR4_SMEP }, { "smap", f7.ebx & 1 << 20, CR4_SMAP },
        { "pke", f7.ecx & 1 << 3, 1 << 22 }, { "cet", (f7.ecx & 1 << 7) | (f7.edx & 1 << 20), 1 << 23 },
        { "pks", f7.ecx & 1u << 31, 1 << 24 }, { "pcide", f1.ecx & 1 << 17, CR4_PCIDE },
        { "osxsave", f1.ecx & 1 << 26, CR4_OSXSAVE },
    };
    for (u64 i = 0; i < sizeof features / sizeof *features; i++) {
        char name[64];
        format_name(name, "cr4.%s-not-offered", features[i].name);
        if (!features[i].there)
            refuse_fatal(name, code, (saved_cr4 & ~features[i].bit) | features[i].bit);
    }
    static const u64 plain[] = { CR4_TSD, CR4_DE, CR4_PGE, CR4_MCE, CR4_PSE, CR4_PCE };
    for (int i = 0; i < 6; i++) {
        char name[64];
        write_cr4(saved_cr4 | plain[i]);
        format_name(name, "cr4.%lx", plain[i]);
        CHECK(name, read_cr4(), saved_cr4 | plain[i]);
    }
    write_cr4(saved_cr4);
    CHECK("cr4.kept", read_cr4(), saved_cr4);
}

static void test_cr8(void)
{
    void *code = CODE("mov %rax, %cr8");
    for (u64 v = 0; v < 16; v += 5) {
        write_cr8(v);
        CHECK("cr8.value", read_cr8(), v);
    }
    refuse("cr8.16", code, 16);
    refuse("cr8.high", code, 1ul << 63);
    CHECK("cr8.kept", read_cr8(), 15);
    write_cr8(0);
    u8 *undefined = CODE("mov %cr0, %rax");
    static const u8 numbers[] = { 1, 5, 6, 7 };
    for (int i = 0; i < 4; i++) {
        char name[64];
        undefined[2] = (u8)(0xC0 | numbers[i] << 3);
        run_code(0, undefined);
        format_name(name, "cr%d.undefined", numbers[i]);
        check_fault(name, undefined, V_UD, 0);
    }
    void *cr9 = CODE(".byte 0x44, 0x0F, 0x20, 0xC8"), *cr10 = CODE(".byte 0x44, 0x0F, 0x22, 0xD0");
    run_code(0, cr9);
    check_fault("cr9.undefined", cr9, V_UD, 0);
    run_code(0, cr10);
    check_fault("cr10.undefined", cr10, V_UD, 0);
    void *dr8 = CODE(".byte 0x44, 0x0F, 0x21, 0xC0");
    run_code(0, dr8);
    check_fault("dr8.undefined", dr8, V_UD, 0);
}

static void test_efer(void)
{
    void *code = CODE("mov %eax, %eax; mov $0xC0000080, %ecx;" MARK "wrmsr");
    CHECK("efer.long-mode", saved_efer & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    refuse_fatal("efer.lme-clear", code, saved_efer & ~(u64)EFER_LME);
    refuse("efer.bit1", code, saved_efer | 2);
    refuse("efer.bit16", code, saved_efer | 1 << 16);
    run_with(0, code, saved_efer, 0, 1);
    check_fault("efer.high-half", code, V_GP, 0);
    CHECK("efer.kept", read_msr(MSR_EFER), saved_efer);
    write_msr(MSR_EFER, saved_efer & ~(u64)(EFER_NXE | EFER_SCE));
    CHECK("efer.nxe-sce-clear", read_msr(MSR_EFER), saved_efer & ~(u64)(EFER_NXE | EFER_SCE));
    write_msr(MSR_EFER, saved_efer);
    CHECK("efer.lma-in-image", read_msr(MSR_EFER), saved_efer);
}

static void test_msrs(void)
{
    static const u32 unknown[] = { 0xDEADBEEF, 0x12345678, 0xC0000090, 0x00000005, 0x4B564DFF };
    void *read = CODE("mov %rcx, %rcx;" MARK "rdmsr"), *write = CODE("mov %rcx, %rcx;" MARK "wrmsr");
    for (int i = 0; i < 5; i++) {
        char name[64];
        format_name(name, "rdmsr.%x", unknown[i]);
        run_with(0, read, 77, unknown[i], 88);
        check_fault(name, read, V_GP, 0);
        CHECK(with(name, "rax-kept"), trap.c.r[RAX], 77);
        format_name(name, "wrmsr.%x", unknown[i]);
        run_with(0, write, 0, unknown[i], 0);
        check_fault(name, write, V_GP, 0);
    }
    run_with(0, read, ~0ul, 0xFFFFFFFF00000000 | (u32)MSR_EFER, ~0ul);
    CHECK("rdmsr.ecx-only", trap.c.r[RAX], (u32)saved_efer);
    CHECK("rdmsr.zero-extends-rdx", trap.c.r[RDX], saved_efer >> 32);
    u64 pat = read_msr(MSR_PAT);
    write_msr(MSR_PAT, 0x0007040600070401);
    CHECK("pat.kept", read_msr(MSR_PAT), 0x0007040600070401);
    run_with(0, write, 2, MSR_PAT, 0);
    check_fault("pat.bad-type", write, V_GP, 0);
    write_msr(MSR_PAT, pat);
}

static void test_tsc(void)
{
    u64 last = rdtsc();
    int monotonic = 1;
    for (int i = 0; i < 1000; i++) {
        u64 now = rdtsc();
        monotonic &= now >= last;
        last = now;
    }
    CHECK("tsc.monotonic", monotonic, 1);
    CHECK("tsc.moves", rdtsc() > last, 1);
    CHECK("tsc.msr", read_msr(MSR_TSC) >= last, 1);
    void *code = CODE("mov $-1, %rax; mov %rax, %rdx;" MARK "rdtsc");
    EACH_CPL(cpl) {
        run_code(cpl, code);
        check_end(at("rdtsc", cpl), code);
        CHECK(at("rdtsc.halves", cpl), (trap.c.r[RAX] | trap.c.r[RDX]) >> 32, 0);
        write_cr4(saved_cr4 | CR4_TSD);
        run_code(cpl, code);
        if (cpl)
            check_fault("rdtsc.tsd.cpl3", code, V_GP, 0);
        else
            check_end("rdtsc.tsd.cpl0", code);
        write_cr4(saved_cr4);
    }
    if (cpuid(0x80000001, 0).edx & 1 << 27) {
        void *rdtscp = CODE("rdtscp");
        write_msr(MSR_TSC_AUX, 0x12345);
        run_code(3, rdtscp);
        CHECK("rdtscp.aux", trap.c.r[RCX], 0x12345);
        write_cr4(saved_cr4 | CR4_TSD);
        run_code(3, rdtscp);
        check_fault("rdtscp.tsd", rdtscp, V_GP, 0);
        write_cr4(saved_cr4);
    }
    void *rdpmc = CODE("rdpmc");
    run_code(3, rdpmc);
    check_fault("rdpmc.pce-clear", rdpmc, V_GP, 0);
}

static void test_xcr0(void)
{
    void *set = CODE("mov %rcx, %rcx;" MARK "xsetbv"), *get = CODE("mov %rcx, %rcx;" MARK "xgetbv");
    if (!(cpuid(1, 0).ecx & 1 << 26)) {
        run_code(0, get);
        check_fault("xgetbv.not-offered", get, V_UD, 0);
        return;
    }
    u64 all = cpuid(0xD, 0).eax | (u64)cpuid(0xD, 0).edx << 32;
    CHECK("xcr0.x87-sse", all & 3, 3);
    run_with(0, set, 0, 0, 0);
    check_fault("xsetbv.no-x87", set, V_GP, 0);
    run_with(0, set, 5, 0, 0);
    check_fault("xsetbv.avx-without-sse", set, V_GP, 0);
    run_with(0, set, (u32)(all | 1u << 30), 0, 0);
    check_fault("xsetbv.reserved", set, V_GP, 0);
    run_with(0, set, (u32)all, 0, 1u << 31);
    check_fault("xsetbv.bit63", set, V_GP, 0);
    run_with(0, set, 3, 1, 0);
    check_fault("xsetbv.ecx-1", set, V_GP, 0);
    run_with(3, set, 3, 0, 0);
    check_fault("xsetbv.cpl3", set, V_GP, 0);
    run_with(0, get, 0, 2, 0);
    check_fault("xgetbv.ecx-2", get, V_GP, 0);
    EACH_CPL(cpl) {
        asm volatile("xsetbv" :: "c"(0), "a"(3), "d"(0));
        run_with(cpl, get, ~0ul, 0, ~0ul);
        CHECK(at("xgetbv.3", cpl), trap.c.r[RAX] + trap.c.r[RDX], 3);
        asm volatile("xsetbv" :: "c"(0), "a"(7 & (u32)all), "d"(0));
        run_with(cpl, get, ~0ul, 0, ~0ul);
        CHECK(at("xgetbv.all", cpl), trap.c.r[RAX] + trap.c.r[RDX], 7 & all);
        CHECK(at("cpuid.osxsave-set", cpl), cpuid(1, 0).ecx >> 27 & 1, 1);
        write_cr4(saved_cr4 & ~(u64)CR4_OSXSAVE);
        CHECK(at("cpuid.osxsave-clear", cpl), cpuid(1, 0).ecx >> 27 & 1, 0);
        run_with(cpl, get, 0, 0, 0);
        check_fault(at("xgetbv.osxsave-clear", cpl), get, V_UD, 0);
        run_with(cpl, set, 3, 0, 0);
        check_fault(at("xsetbv.osxsave-clear", cpl), set, V_UD, 0);
        write_cr4(saved_cr4);
    }
}

static void test_cpuid(void)
{
    void *code = CODE("cpuid");
    EACH_CPL(cpl) {
        struct cpu c = at_cpl(cpl, code);
        c.r[RAX] = 0xFFFFFFFF00000000;
        c.r[RBX] = c.r[RCX] = c.r[RDX] = ~0ul;
        c.rflags |= F_CF | F_OF;
        run(&c);
        check_end(at("cpuid", cpl), code);
        CHECK(at("cpuid.zero-extends", cpl),
              (trap.c.r[RAX] | trap.c.r[RBX] | trap.c.r[RCX] | trap.c.r[RDX]) >> 32, 0);
        CHECK(at("cpuid.flags", cpl), trap.c.rflags, F_1 | F_CF | F_OF);
        CHECK(at("cpuid.max-leaf", cpl), trap.c.r[RAX] >= 7, 1);
    }
    struct cpuid f = cpuid(1, 0), e = cpuid(0x80000001, 0);
    u32 edx = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 13 | 1 << 15 | 1 << 24 | 1 << 25 | 1 << 26;
    CHECK("cpuid.1.edx", f.edx & edx, edx);
    CHECK("cpuid.80000001.long-mode", e.edx >> 29 & 1, 1);
    CHECK("cpuid.80000001.syscall-nx", e.edx & (1 << 11 | 1 << 20), 1 << 11 | 1 << 20);
    CHECK("cpuid.80000000", cpuid(0x80000000, 0).eax >= 0x80000008, 1);
    CHECK("cpuid.linear-width", cpuid(0x80000008, 0).eax >> 8 & 0xFF, 48);
    CHECK("cpuid.4-differs", cpuid(4, 0).eax != cpuid(4, 1).eax || !is_intel(), 1);
    CHECK("cpuid.d-size", cpuid(0xD, 0).ebx, cpuid(0xD, 0).eax & 4 ? 832 : 576);
    CHECK("cpuid.repeats", cpuid(7, 0).ebx, cpuid(7, 0).ebx);
}

void guest_main(void)
{
    saved_cr0 = read_cr0();
    saved_cr4 = read_cr4();
    saved_efer = read_msr(MSR_EFER);
    test_cr0();
    test_cr3();
    test_cr4();
    test_cr8();
    test_efer();
    test_msrs();
    test_tsc();
    test_xcr0();
    test_cpuid();
}
