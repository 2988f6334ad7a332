/* An instruction exists if and only if CPUID offers it: hidden ones raise #UD though the host may
   have them, offered ones run. */
#include "guest.h"

enum reg { EAX, EBX, ECX, EDX };

struct gate {
    const char *name;
    u32 leaf, subleaf;
    u8 reg, bit;
    u8 cpl0_only;       /* privileged: asked at CPL 0 only */
    void *code;
};

static int offered(const struct gate *g)
{
    u32 top = cpuid(g->leaf & 0x80000000, 0).eax;
    if (g->leaf > top)
        return 0;
    struct cpuid c = cpuid(g->leaf, g->subleaf);
    u32 value = g->reg == EAX ? c.eax : g->reg == EBX ? c.ebx : g->reg == ECX ? c.ecx : c.edx;
    return value >> g->bit & 1;
}

static void gate_check(const struct gate *g, int cpl)
{
    struct cpu c = at_cpl(cpl, g->code);
    char name[64];
    if (g->cpl0_only && offered(g))
        return;             /* needs more than CPUID to run */
    c.r[RAX] = 0;
    c.r[RDI] = c.r[RSI] = c.r[RBX] = ((u64)user_stack + 1023) & ~1023ul;
    run(&c);
    format_name(name, "%s.%s", offered(g) ? "offered" : "hidden", g->name);
    if (offered(g))
        CHECK(at(name, cpl), trap.vector == V_UD, 0);
    else
        check_fault(at(name, cpl), g->code, V_UD, 0);
}

#define B(bytes) CODE(".byte " bytes)

static void test_gates(void)
{
    const struct gate gates[] = {
        { "pclmulqdq", 1, 0, ECX, 1, 0, CODE("pclmulqdq $0, %xmm0, %xmm1") },
        { "monitor", 1, 0, ECX, 3, 1, CODE("mov %rdi, %rax; xor %ecx, %ecx; xor %edx, %edx;" MARK "monitor") },
        { "vmcall", 1, 0, ECX, 5, 1, B("0x0F, 0x01, 0xC1") },
        { "vmlaunch", 1, 0, ECX, 5, 1, B("0x0F, 0x01, 0xC2") },
        { "vmxoff", 1, 0, ECX, 5, 1, B("0x0F, 0x01, 0xC4") },
        { "vmread", 1, 0, ECX, 5, 1, B("0x0F, 0x78, 0xC0") },
        { "getsec", 1, 0, ECX, 6, 1, B("0x0F, 0x37") },
        { "ssse3", 1, 0, ECX, 9, 0, CODE("pshufb %xmm0, %xmm1") },
        { "fma", 1, 0, ECX, 12, 0, CODE("vfmadd231ps %xmm0, %xmm1, %xmm2") },
        { "cmpxchg16b", 1, 0, ECX, 13, 0, CODE("cmpxchg16b (%rdi)") },
        { "sse4.1", 1, 0, ECX, 19, 0, CODE("pmulld %xmm0, %xmm1") },
        { "crc32", 1, 0, ECX, 20, 0, CODE("crc32b %al, %ecx") },
        { "movbe", 1, 0, ECX, 22, 0, CODE("movbe (%rdi), %rcx") },
        { "popcnt", 1, 0, ECX, 23, 0, CODE("popcnt %rax, %rcx") },
        { "aes", 1, 0, ECX, 25, 0, CODE("aesenc %xmm0, %xmm1") },
        { "avx", 1, 0, ECX, 28, 0, CODE("vaddps %ymm0, %ymm1, %ymm2") },
        { "f16c", 1, 0, ECX, 29, 0, CODE("vcvtph2ps %xmm0, %ymm1") },
        { "rdrand", 1, 0, ECX, 30, 0, CODE("rdrand %rcx") },
        { "bmi1", 7, 0, EBX, 3, 0, CODE("andn %rax, %rcx, %rdx; blsr %rax, %rcx") },
        { "avx2", 7, 0, EBX, 5, 0, CODE("vpaddd %ymm0, %ymm1, %ymm2") },
        { "bmi2", 7, 0, EBX, 8, 0, CODE("pext %rax, %rcx, %rdx; rorx $3, %r9, %r10") },
        { "invpcid", 7, 0, EBX, 10, 1, CODE("movq $0, (%rdi); movq $0, 8(%rdi); mov $2, %eax;"
                                            MARK "invpcid (%rdi), %rax") },
        { "xbegin", 7, 0, EBX, 11, 0, CODE("xbegin 1f; xend; 1:") },
        { "xtest", 7, 0, EBX, 11, 0, CODE("xtest") },
        { "avx512f", 7, 0, EBX, 16, 0, CODE("vaddps %zmm0, %zmm1, %zmm2") },
        { "avx512-opmask", 7, 0, EBX, 16, 0, CODE("kmovw %eax, %k1") },
        { "avx512vl", 7, 0, EBX, 31, 0, CODE("vaddps %xmm16, %xmm17, %xmm18") },
        { "rdseed", 7, 0, EBX, 18, 0, CODE("rdseed %rcx") },
        { "adx", 7, 0, EBX, 19, 0, CODE("adcx %rax, %rcx; adox %r8, %r9") },
        { "clac", 7, 0, EBX, 20, 1, CODE("clac") },
        { "clflushopt", 7, 0, EBX, 23, 0, CODE("clflushopt (%rdi)") },
        { "clwb", 7, 0, EBX, 24, 0, CODE("clwb (%rdi)") },
        { "sha", 7, 0, EBX, 29, 0, CODE("sha1nexte %xmm0, %xmm1") },
        { "rdpkru", 7, 0, ECX, 4, 0, CODE("xor %ecx, %ecx;" MARK "rdpkru") },
        { "wrpkru", 7, 0, ECX, 4, 0, CODE("xor %ecx, %ecx; xor %edx, %edx;" MARK "wrpkru") },
        { "umonitor", 7, 0, ECX, 5, 0, CODE("umonitor %rdi") },
        { "tpause", 7, 0, ECX, 5, 0, CODE("xor %eax, %eax; xor %edx, %edx;" MARK "tpause %ecx") },
        { "gfni", 7, 0, ECX, 8, 0, CODE("gf2p8mulb %xmm0, %xmm1") },
        { "vaes", 7, 0, ECX, 9, 0, CODE("vaesenc %ymm0, %ymm1, %ymm2") },
        { "vpclmulqdq", 7, 0, ECX, 10, 0, CODE("vpclmulqdq $0, %ymm0, %ymm1, %ymm2") },
        { "rdpid", 7, 0, ECX, 22, 0, CODE("rdpid %rcx") },
        { "movdiri", 7, 0, ECX, 27, 0, CODE("movdiri %rax, (%rdi)") },
        { "movdir64b", 7, 0, ECX, 28, 0, CODE("movdir64b (%rsi), %rdi") },
        { "enqcmd", 7, 0, ECX, 29, 0, CODE("enqcmd (%rsi), %rdi") },
        { "serialize", 7, 0, EDX, 14, 0, CODE("serialize") },
        { "xsusldtrk", 7, 0, EDX, 16, 0, CODE("xsusldtrk") },
        { "amx-tile", 7, 0, EDX, 24, 0, CODE("tilerelease") },
        { "xsave", 1, 0, ECX, 26, 0, CODE("mov $3, %eax; xor %edx, %edx;" MARK "xsave (%rdi)") },
        { "xsaveopt", 0xD, 1, EAX, 0, 0, CODE("mov $3, %eax; xor %edx, %edx;" MARK "xsaveopt (%rdi)") },
        { "xsavec", 0xD, 1, EAX, 1, 0, CODE("mov $3, %eax; xor %edx, %edx;" MARK "xsavec (%rdi)") },
        { "xsaves", 0xD, 1, EAX, 3, 1, CODE("mov $3, %eax; xor %edx, %edx;" MARK "xsaves (%rdi)") },
        { "vmrun", 0x80000001, 0, ECX, 2, 1, B("0x0F, 0x01, 0xD8") },
        { "stgi", 0x80000001, 0, ECX, 2, 1, B("0x0F, 0x01, 0xDC") },
        { "lahf", 0x80000001, 0, ECX, 0, 0, CODE("lahf; sahf") },
        { "sse4a-extrq", 0x80000001, 0, ECX, 6, 0, B("0x66, 0x0F, 0x79, 0xC1") },
        { "sse4a-movntss", 0x80000001, 0, ECX, 6, 0, B("0xF3, 0x0F, 0x2B, 0x07") },
        { "xop", 0x80000001, 0, ECX, 11, 0, B("0x8F, 0xE8, 0x78, 0xC0, 0xC0, 0x01") },
        { "fma4", 0x80000001, 0, ECX, 16, 0, B("0xC4, 0xE3, 0xF1, 0x68, 0xC2, 0x30") },
        { "tbm", 0x80000001, 0, ECX, 21, 0, B("0x8F, 0xE9, 0xF8, 0x01, 0xC8") },
        { "monitorx", 0x80000001, 0, ECX, 29, 0, CODE("mov %rdi, %rax; xor %ecx, %ecx; xor %edx, %edx;"
                                                      MARK ".byte 0x0F, 0x01, 0xFA") },
        { "femms", 0x80000001, 0, EDX, 31, 0, CODE("femms") },
        { "3dnow", 0x80000001, 0, EDX, 31, 0, B("0x0F, 0x0F, 0xC1, 0x9E") },
        /* Every processor with RDPID has RDTSCP, even where a hypervisor does not show it. */
        { "rdtscp", cpuid(7, 0).ecx >> 22 & 1 ? 7 : 0x80000001, 0,
          cpuid(7, 0).ecx >> 22 & 1 ? ECX : EDX, cpuid(7, 0).ecx >> 22 & 1 ? 22 : 27, 0,
          CODE("rdtscp") },
        { "clzero", 0x80000008, 0, EBX, 0, 0, CODE("mov %rdi, %rax;" MARK ".byte 0x0F, 0x01, 0xFC") },
        { "rdpru", 0x80000008, 0, EBX, 4, 0, CODE("xor %ecx, %ecx;" MARK ".byte 0x0F, 0x01, 0xFD") },
        { "invlpgb", 0x80000008, 0, EBX, 3, 1, B("0x0F, 0x01, 0xFE") },
    };
    for (u64 i = 0; i < sizeof gates / sizeof *gates; i++)
        for (int cpl = 0; cpl <= (gates[i].cpl0_only ? 0 : 3); cpl += 3)
            gate_check(&gates[i], cpl);
}

/* Encodings that older processors run as something else: no #UD either way. */
static void test_overloaded(void)
{
    void *tzcnt = CODE("tzcnt %rax, %rcx"), *lzcnt = CODE("lzcnt %rax, %rcx");
    EACH_CPL(cpl) {
        run_with(cpl, tzcnt, 0x100, 0, 0);
        CHECK(at("tzcnt-or-bsf", cpl), trap.c.r[RCX], 8);
        run_with(cpl, lzcnt, 0x100, 0, 0);
        CHECK(at("lzcnt-or-bsr", cpl), trap.c.r[RCX], cpuid(0x80000001, 0).ecx >> 5 & 1 ? 55 : 8);
        run_with(cpl, CODE("tzcnt %rax, %rcx; pushfq; pop %rdx"), 0, 5, 0);
        if (cpuid(7, 0).ebx >> 3 & 1)
            CHECK(at("tzcnt.zero", cpl), trap.c.r[RCX], 64);
        void *hints = CODE("endbr64; pause; rep nop; .byte 0x0F, 0x18, 0x38; nopl 8(%rax,%rax);"
                           ".byte 0x0F, 0x1C, 0x00; .byte 0xF3, 0x48, 0x0F, 0x1E, 0xC8; .byte 0x0F, 0x0D, 0x00");
        run_code(cpl, hints);
        check_end(at("hints-are-nops", cpl), hints);
    }
}

void guest_main(void)
{
    test_gates();
    test_overloaded();
}
