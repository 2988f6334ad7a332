/* x87, SSE and AVX state: FXSAVE, XSAVE and their kin, the x87 pointers, CR0.TS, CR4.OSXSAVE
   (SDM 1 ch. 10, 13; 3A 13). */
#include "guest.h"

static u8 area[2048] UDATA ALIGNED(64), other[2048] UDATA ALIGNED(64);
static u64 xfeatures;

#define U16(p, at) (*(u16 *)((p) + (at)))
#define U32(p, at) (*(u32 *)((p) + (at)))
#define U64(p, at) (*(u64 *)((p) + (at)))
enum { FOP = 6, FIP = 8, MXCSR = 24, XSTATE_BV = 512, XCOMP_BV = 520, HEADER = 512, YMMH = 576 };

/* Distinct values in every register. */
static void fill_state(void)
{
    asm volatile("fninit; fldpi; fld1; fldl2e");
    for (int i = 0; i < 32; i++)
        other[i] = (u8)(i * 7 + 1);
    asm volatile("movups (%0), %%xmm0; movups 1(%0), %%xmm7; movups 2(%0), %%xmm8;"
                 "movups 3(%0), %%xmm15" :: "r"(other));
    if (xfeatures & 4)
        asm volatile("vmovups (%0), %%ymm3; vmovups 4(%0), %%ymm12" :: "r"(other));
}

static void clear_state(void)
{
    asm volatile("fninit");
    if (xfeatures & 4)
        asm volatile("vzeroall");
    else
        asm volatile("xorps %xmm0, %xmm0; xorps %xmm7, %xmm7; xorps %xmm8, %xmm8;"
                     "xorps %xmm15, %xmm15");
}

static void run_area(int cpl, void *code, u64 mask)
{
    run_with(cpl, code, (u32)mask, (u64)area, mask >> 32);
}

static void test_fxsave(void)
{
    void *save = CODE("fxsave64 (%rcx)"), *restore = CODE("fxrstor64 (%rcx)");
    EACH_CPL(cpl) {
        fill_state();
        u32 mxcsr = 0x1F80 | 0x6000;
        asm volatile("ldmxcsr %0" :: "m"(mxcsr));
        memset(area, 0xEE, sizeof area);
        run_area(cpl, save, 0);
        check_end(at("fxsave", cpl), save);
        CHECK(at("fxsave.fcw", cpl), U16(area, 0), 0x37F);
        CHECK(at("fxsave.fsw-top", cpl), U16(area, 2) >> 11 & 7, 5);
        CHECK(at("fxsave.abridged-tags", cpl), area[4], 0xE0);
        CHECK(at("fxsave.mxcsr", cpl), U32(area, 24), mxcsr);
        CHECK(at("fxsave.st0", cpl), U64(area, 32), 0xB8AA3B295C17F0BC);
        CHECK(at("fxsave.st1", cpl), U64(area, 48), 0x8000000000000000);
        CHECK(at("fxsave.st2-exponent", cpl), U16(area, 72), 0x4000);
        CHECK(at("fxsave.xmm0", cpl), U64(area, 160), U64(other, 0));
        CHECK(at("fxsave.xmm15", cpl), U64(area, 160 + 15 * 16 + 8), U64(other, 11));
        CHECK(at("fxsave.available-bytes-kept", cpl), U64(area, 464), 0xEEEEEEEEEEEEEEEE);
        CHECK(at("fxsave.nothing-after", cpl), U64(area, 512), 0xEEEEEEEEEEEEEEEE);
        clear_state();
        mxcsr = 0x1F80;
        asm volatile("ldmxcsr %0" :: "m"(mxcsr));
        run_area(cpl, restore, 0);
        check_end(at("fxrstor", cpl), restore);
        asm volatile("stmxcsr %0" : "=m"(mxcsr));
        CHECK(at("fxrstor.mxcsr", cpl), mxcsr, 0x7F80);
        memcpy(other + 1024, area, 512);
        run_area(cpl, save, 0);
        CHECK(at("fxrstor.same-image", cpl), memcmp(other + 1024 + 24, area + 24, 392), 0);
        U32(area, 24) = 0x10000;
        run_area(cpl, restore, 0);
        check_fault(at("fxrstor.mxcsr-reserved", cpl), restore, V_GP, 0);
        mxcsr = 0x1F80;
        asm volatile("ldmxcsr %0" :: "m"(mxcsr));
    }
}

/* The x87 instruction and data pointers are the guest's addresses, or (where nothing is pending)
   what a processor that keeps them only for exceptions shows: zero. */
static void test_pointers(void)
{
    void *code = CODE("fninit; fldz; movw $0x37B, -16(%rsp); fldcw -16(%rsp); fld1;" MARK
                      "fdiv %st(1), %st; fxsave64 64(%rcx); fnstenv (%rcx); fnclex");
    EACH_CPL(cpl) {
        memset(area, 0xEE, sizeof area);
        run_area(cpl, code, 0);
        check_end(at("fip", cpl), code);
        CHECK(at("fip.fnstenv", cpl), U32(area, 12), code_mark(code));
        CHECK(at("fip.fxsave64", cpl), U64(area, 64 + 8), code_mark(code));
    }
    void *memory = CODE("fninit; fldz; movw $0x37B, -16(%rsp); fldcw -16(%rsp); fld1; fldz;" MARK
                        "fidivrs 1024(%rcx); fxsave64 (%rcx); fnstenv 512(%rcx); fnclex");
    U16(area, 1024) = 3;
    run_area(3, memory, 0);
    CHECK("fdp.fxsave64", U64(area, 16), (u64)area + 1024);
    CHECK("fip.memory-operand", U64(area, 8), code_mark(memory));
    CHECK("fip.fnstenv-memory", U32(area, 512 + 12), (u32)code_mark(memory));

    void *quiet = CODE("fninit;" MARK "fld1; fxsave64 (%rcx)");
    run_area(3, quiet, 0);
    CHECK("fip.quiet-is-guest-or-zero",
          U64(area, 8) == code_mark(quiet) || U64(area, 8) == 0, 1);
    void *inited = CODE("fninit; fxsave64 (%rcx)");
    run_area(3, inited, 0);
    CHECK("fip.fninit", U64(area, 8), 0);
    /* High code addresses, too: the pointer has 64 bits. */
    u64 page = HIGH_WINDOW;
    map4k(page, FREE_RAM, P_P | P_W | P_U);
    memcpy((void *)FREE_RAM, code, code_end(code) + 2 - (u64)code);
    run_area(3, (void *)page, 0);
    CHECK("fip.high", U64(area, 64 + 8), page + code_mark(code) - (u64)code);
}

static void test_ts(void)
{
    u64 cr0 = read_cr0();
    struct { const char *name; void *code; } const codes[] = {
        { "fxsave", CODE("fxsave (%rcx)") }, { "fxrstor", CODE("fxrstor (%rcx)") },
        { "xsave", CODE("xsave (%rcx)") }, { "xrstor", CODE("xrstor (%rcx)") },
        { "xsaveopt", CODE("xsaveopt (%rcx)") }, { "vaddps", CODE("vaddps %ymm0, %ymm1, %ymm2") },
        { "fnsave", CODE("fnsave (%rcx)") }, { "vzeroupper", CODE("vzeroupper") },
    };
    for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
        if (!(xfeatures & 4) && i >= 2 && i != 6)
            continue;
        if (i == 4 && !(cpuid(0xD, 1).eax & 1))
            continue;
        EACH_CPL(cpl) {
            write_cr0(cr0 | CR0_TS);
            memset(area, 0, sizeof area);
            U16(area, 0) = 0x37F;
            U32(area, 24) = 0x1F80;
            run_area(cpl, codes[i].code, 7);
            check_fault(at(with("ts", codes[i].name), cpl), codes[i].code, V_NM, 0);
            asm volatile("clts");
            run_area(cpl, codes[i].code, 7);
            check_end(at(with("clts", codes[i].name), cpl), codes[i].code);
        }
    }
    write_cr0(cr0);
    asm volatile("fninit");
}

static void test_xsave(void)
{
    void *save = CODE("xsave64 (%rcx)"), *restore = CODE("xrstor64 (%rcx)");
    u64 cr4 = read_cr4();
    EACH_CPL(cpl) {
        fill_state();
        memset(area, 0, sizeof area);
        run_area(cpl, save, ~0ul);
        check_end(at("xsave", cpl), save);
        CHECK(at("xsave.bv", cpl), U64(area, XSTATE_BV), xfeatures);
        CHECK(at("xsave.xcomp", cpl), U64(area, XCOMP_BV), 0);
        CHECK(at("xsave.xmm7", cpl), U64(area, 160 + 7 * 16), U64(other, 1));
        if (xfeatures & 4) {
            CHECK(at("xsave.ymm3-high", cpl), U64(area, YMMH + 3 * 16), U64(other, 16));
            CHECK(at("xsave.ymm12-high", cpl), U64(area, YMMH + 12 * 16 + 8), U64(other, 28));
        }
        CHECK(at("xsave.nothing-after-832", cpl), U64(area, 832), 0);
        memcpy(other + 1024, area, 832);
        clear_state();
        run_area(cpl, restore, ~0ul);
        check_end(at("xrstor", cpl), restore);
        memset(area, 0, sizeof area);
        run_area(cpl, save, ~0ul);
        CHECK(at("xrstor.same-image", cpl), memcmp(other + 1024 + 24, area + 24, 808), 0);

        /* Only what the mask asks for is written; the rest of XSTATE_BV is kept. */
        memset(area, 0xEE, sizeof area);
        memset(area + HEADER, 0, 64);
        U64(area, XSTATE_BV) = 4;
        run_area(cpl, save, 2);
        CHECK(at("xsave.mask-bv", cpl), U64(area, XSTATE_BV), 6);
        CHECK(at("xsave.mask-x87-kept", cpl), U16(area, 0), 0xEEEE);
        CHECK(at("xsave.mask-xmm", cpl), U64(area, 160), U64(other, 0));
        CHECK(at("xsave.mask-mxcsr", cpl), U32(area, 24), 0x1F80);
        CHECK(at("xsave.mask-ymm-kept", cpl), U64(area, YMMH), 0xEEEEEEEEEEEEEEEE);

        /* A component whose bit is clear in XSTATE_BV is put in its initial state. */
        fill_state();
        memset(area, 0, sizeof area);
        U32(area, 24) = 0x1F80;
        run_area(cpl, restore, 3);
        check_end(at("xrstor.init", cpl), restore);
        u16 fsw, fcw;
        u64 low, high = 0;
        asm volatile("fnstsw %0; fnstcw %1; movq %%xmm7, %2" : "=m"(fsw), "=m"(fcw), "=r"(low));
        CHECK(at("xrstor.init-fsw", cpl), fsw, 0);
        CHECK(at("xrstor.init-fcw", cpl), fcw, 0x37F);
        CHECK(at("xrstor.init-xmm", cpl), low, 0);
        if (xfeatures & 4) {
            asm volatile("vextractf128 $1, %%ymm12, %%xmm1; movq %%xmm1, %0" : "=r"(high));
            CHECK(at("xrstor.ymm-not-asked-for", cpl), high, U64(other, 20));
        }

        /* The header's faults. */
        static const struct { const char *name; u32 at; u64 value; } bad[] = {
            { "bv-reserved", XSTATE_BV, 1ul << 40 }, { "bv-bit63", XSTATE_BV, 1ul << 63 },
            { "xcomp", XCOMP_BV, 1 }, { "header-16", HEADER + 16, 1 }, { "header-17", HEADER + 23, 1 },
        };
        for (int i = 0; i < 5; i++) {
            char name[64];
            memset(area, 0, sizeof area);
            U32(area, 24) = 0x1F80;
            *(u8 *)(area + bad[i].at) = (u8)bad[i].value;
            if (bad[i].value > 255)
                U64(area, bad[i].at) = bad[i].value;
            run_area(cpl, restore, 7);
            format_name(name, "xrstor.%s", bad[i].name);
            check_fault(at(name, cpl), restore, V_GP, 0);
        }
        memset(area, 0, sizeof area);
        U32(area, 24) = 0x10000;
        U64(area, XSTATE_BV) = 2;
        run_area(cpl, restore, 2);
        check_fault(at("xrstor.mxcsr-reserved", cpl), restore, V_GP, 0);
        u32 normal = 0x1F80;
        asm volatile("ldmxcsr %0" :: "m"(normal));
        run_with(cpl, save, 7, (u64)area + 16, 0);
        check_fault(at("xsave.misaligned", cpl), save, V_GP, 0);
        run_with(cpl, restore, 7, (u64)area + 32, 0);
        check_fault(at("xrstor.misaligned", cpl), restore, V_GP, 0);

        write_cr4(cr4 & ~(u64)CR4_OSXSAVE);
        run_area(cpl, save, 7);
        check_fault(at("xsave.no-osxsave", cpl), save, V_UD, 0);
        run_area(cpl, restore, 7);
        check_fault(at("xrstor.no-osxsave", cpl), restore, V_UD, 0);
        void *avx = CODE("vpxor %xmm0, %xmm0, %xmm0");
        run_area(cpl, avx, 0);
        check_fault(at("avx.no-osxsave", cpl), avx, V_UD, 0);
        write_cr4(cr4);
        if (xfeatures & 4) {
            asm volatile("xsetbv" :: "c"(0), "a"(3), "d"(0));
            run_area(cpl, avx, 0);
            check_fault(at("avx.not-in-xcr0", cpl), avx, V_UD, 0);
            memset(area, 0xEE, sizeof area);
            memset(area + HEADER, 0, 64);
            run_area(cpl, save, ~0ul);
            CHECK(at("xsave.without-avx-bv", cpl), U64(area, XSTATE_BV) & ~3ul, 0);
            CHECK(at("xsave.without-avx-kept", cpl), U64(area, YMMH), 0xEEEEEEEEEEEEEEEE);
            asm volatile("xsetbv" :: "c"(0), "a"(7), "d"(0));
            run_area(cpl, avx, 0);
            check_end(at("avx.in-xcr0", cpl), avx);
        }
    }
}

static void test_xsave_variants(void)
{
    void *opt = CODE("xsaveopt64 (%rcx)"), *compact = CODE("xsavec64 (%rcx)");
    void *restore = CODE("xrstor64 (%rcx)"), *save = CODE("xsave64 (%rcx)");
    u32 offered = cpuid(0xD, 1).eax;
    EACH_CPL(cpl) {
        if (offered & 1) {
            fill_state();
            memset(area, 0, sizeof area);
            run_area(cpl, opt, 7);
            check_end(at("xsaveopt", cpl), opt);
            CHECK(at("xsaveopt.bv", cpl), U64(area, XSTATE_BV), xfeatures);
            CHECK(at("xsaveopt.xmm8", cpl), U64(area, 160 + 8 * 16), U64(other, 2));
            CHECK(at("xsaveopt.xcomp", cpl), U64(area, XCOMP_BV), 0);
        } else {
            run_area(cpl, opt, 7);
            check_fault(at("xsaveopt.not-offered", cpl), opt, V_UD, 0);
        }
        if (!(offered & 2)) {
            run_area(cpl, compact, 7);
            check_fault(at("xsavec.not-offered", cpl), compact, V_UD, 0);
            continue;
        }
        fill_state();
        memset(area, 0, sizeof area);
        run_area(cpl, compact, 7);
        check_end(at("xsavec", cpl), compact);
        CHECK(at("xsavec.xcomp", cpl), U64(area, XCOMP_BV), 1ul << 63 | xfeatures);
        CHECK(at("xsavec.bv", cpl), U64(area, XSTATE_BV), xfeatures);
        CHECK(at("xsavec.ymm3-high", cpl), U64(area, YMMH + 3 * 16), U64(other, 16));
        memcpy(other + 1024, area, 832);
        clear_state();
        run_area(cpl, restore, 7);
        check_end(at("xrstor.compact", cpl), restore);
        memset(area, 0, sizeof area);
        run_area(cpl, save, 7);
        CHECK(at("xrstor.compact-ymm3", cpl), U64(area, YMMH + 3 * 16), U64(other, 16));
        CHECK(at("xrstor.compact-xmm15", cpl), U64(area, 160 + 15 * 16), U64(other, 3));
        /* AVX alone: its part follows the header at once all the same. */
        memset(area, 0, sizeof area);
        run_area(cpl, compact, 4);
        CHECK(at("xsavec.avx-only-xcomp", cpl), U64(area, XCOMP_BV), 1ul << 63 | 4);
        CHECK(at("xsavec.avx-only", cpl), U64(area, YMMH + 12 * 16), U64(other, 20));
        CHECK(at("xsavec.avx-only-xmm", cpl), U64(area, 160), 0);
    }
    void *xsaves = CODE("xsaves64 (%rcx)"), *xrstors = CODE("xrstors64 (%rcx)");
    run_area(3, xsaves, 7);
    check_fault("xsaves.cpl3", xsaves, offered & 8 ? V_GP : V_UD, 0);
    if (offered & 8) {
        fill_state();
        memset(area, 0, sizeof area);
        run_area(0, xsaves, 7);
        check_end("xsaves", xsaves);
        CHECK("xsaves.xcomp", U64(area, XCOMP_BV), 1ul << 63 | xfeatures);
        clear_state();
        run_area(0, xrstors, 7);
        check_end("xrstors", xrstors);
        u64 low;
        asm volatile("movq %%xmm8, %0" : "=r"(low));
        CHECK("xrstors.xmm8", low, U64(other, 2));
        run_area(3, xrstors, 7);
        check_fault("xrstors.cpl3", xrstors, V_GP, 0);
    } else {
        run_area(0, xrstors, 7);
        check_fault("xrstors.not-offered", xrstors, V_UD, 0);
    }
}

/* What makes the engine leave the code cache, or raises a host signal. */
static void disturb(void)
{
    run_code(0, CODE("cpuid; pushfq; popfq; sgdt -64(%rsp); mov %cs, %eax; int3; in $0xEE, %al; nop"));
    run_code(3, CODE("ud2"));
    run_with(3, CODE("mov (%rax), %rax"), WINDOW, 0, 0);
    for (u64 i = 0; i < 40; i++) {
        map4k(WINDOW + 0x1000 * i, FREE_RAM + 0x1000 * i, P_P | P_W);
        *(volatile u64 *)(WINDOW + 0x1000 * i) = i;
    }
}

/* Vector and x87 registers live through exceptions, sensitive instructions and page faults; so do
   the x87 pointers of a pending exception.  While none is pending, a processor that keeps them only
   for exceptions (AMD's, when its state is saved and restored) may lose them. */
static void test_kept(void)
{
    void *save = CODE("fxsave64 (%rcx)");
    fill_state();
    run_area(0, save, 0);
    memcpy(other + 1024, area, 512);
    disturb();
    run_area(0, save, 0);
    CHECK("state.control-kept-over-exits", memcmp(other + 1024, area, FOP), 0);
    CHECK("state.kept-over-exits", memcmp(other + 1024 + MXCSR, area + MXCSR, 416 - MXCSR), 0);
    CHECK("state.fip-kept-or-zero",
          U64(area, FIP) == U64(other, 1024 + FIP) || U64(area, FIP) == 0, 1);

    void *pending = CODE("fninit; fldz; movw $0x37B, -16(%rsp); fldcw -16(%rsp); fld1;" MARK
                         "fdiv %st(1), %st");
    run_area(0, pending, 0);
    disturb();
    run_area(0, save, 0);
    CHECK("state.pending-fip-kept", U64(area, FIP), code_mark(pending));
    asm volatile("fnclex; fninit");
}

/* Results, rounding and flags by MXCSR and the x87 control word. */
static void test_rounding(void)
{
    static const u64 sse[] = { 0x3FD5555555555555, 0x3FD5555555555555, 0x3FD5555555555556,
                               0x3FD5555555555555 };
    static const u64 x87[] = { 0xAAAAAAAAAAAAAAAB, 0xAAAAAAAAAAAAAAAA, 0xAAAAAAAAAAAAAAAB,
                               0xAAAAAAAAAAAAAAAA };
    for (u64 mode = 0; mode < 4; mode++) {
        u32 mxcsr = 0x1F80 | (u32)mode << 13;
        u16 fcw = (u16)(0x37F | mode << 10);
        u64 result;
        asm volatile("ldmxcsr %1; mov $1, %%eax; cvtsi2sd %%eax, %%xmm0; mov $3, %%eax;"
                     "cvtsi2sd %%eax, %%xmm1; divsd %%xmm1, %%xmm0; movq %%xmm0, %0"
                     : "=r"(result) : "m"(mxcsr) : "rax");
        CHECK("rounding.sse", result, sse[mode]);
        run_code(3, CODE("cpuid"));
        u32 after;
        asm volatile("stmxcsr %0" : "=m"(after));
        CHECK("rounding.mxcsr-kept", after, mxcsr | 0x20);
        U16(area, 0) = fcw;
        asm volatile("fninit; fldcw (%0); pushq $3; fld1; fidivl (%%rsp); pop %%rax; fstpt 16(%0)"
                     :: "r"(area) : "rax", "memory");
        CHECK("rounding.x87", U64(area, 16), x87[mode]);
    }
    u32 normal = 0x1F80;
    asm volatile("ldmxcsr %0; fninit" :: "m"(normal));
}

void guest_main(void)
{
    xfeatures = cpuid(1, 0).ecx & 1 << 26 ? (u64)(cpuid(0xD, 0).eax & 7) : 0;
    test_fxsave();
    test_pointers();
    test_ts();
    if (xfeatures) {
        test_xsave();
        test_xsave_variants();
    }
    test_kept();
    test_rounding();
}
