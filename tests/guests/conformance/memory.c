/* Instructions whose memory operand is not a plain ModRM one, or that combine several: stack forms,
   LOCK, bit strings, XLAT, ENTER, loops, jump tables, gathers, masked moves. */
#include "guest.h"

static u64 words[64] UDATA ALIGNED(64);

static void reset_words(void)
{
    for (u64 i = 0; i < 64; i++)
        words[i] = 0x0101010101010101 * i;
}

/* Runs with RAX = words + 32, RBX = words, other registers small; the snippet must end. */
static struct cpu go(const char *name, int cpl, void *code)
{
    struct cpu c = at_cpl(cpl, code);
    for (int r = 0; r < 16; r++)
        if (r != RSP)
            c.r[r] = (u64)r;
    c.r[RAX] = (u64)&words[32];
    c.r[RBX] = (u64)words;
    run(&c);
    if (trap.vector != V_END)
        check_end(at(name, cpl), code);
    return trap.c;
}

#define R(name, cpl, register, want) CHECK(at(name, cpl), c.r[register], want)

static void test_stack(int cpl)
{
    u64 top = cpl ? USER_RSP : KERNEL_RSP;
    reset_words();
    struct cpu c = go("push", cpl, CODE(
        "push %rsp; pop %rcx; push %rcx; pop %rsi; push $-5; pop %rdi; push $0x7FFFFFFF; pop %r8;"
        "push %r9; pop %r10; push %r11; push 8(%rbx); pop %r12; pop %r13; pushw $0x1234; popw %dx"));
    R("push.rsp-is-old", cpl, RCX, top);
    R("push.imm8", cpl, RDI, (u64)-5);
    R("push.imm32", cpl, R8, 0x7FFFFFFF);
    R("push.r9-r10", cpl, R10, 9);
    R("push.mem", cpl, R12, words[1]);
    R("push.r11-r13", cpl, R13, 11);
    R("push.w", cpl, RDX, 0x1234);
    R("push.rsp-back", cpl, RSP, top);

    c = go("pop", cpl, CODE("push %rbx; mov %rsp, %rcx; pop %rsp; mov %rsp, %rdx; lea -8(%rcx), %rsp;"
                            "movq $77, 16(%rsp); movq $55, (%rsp); pop 8(%rsp); mov 8(%rsp), %rsi;"
                            "mov %rsp, %rdi; mov %rcx, %rsp"));
    R("pop.rsp", cpl, RDX, (u64)words);
    R("pop.mem-by-new-rsp", cpl, RSI, 55);
    CHECK(at("pop.mem-by-new-rsp.rsp", cpl), c.r[RDI], c.r[RCX]);
    c = go("push-rsp-mem", cpl, CODE("movq $99, 8(%rsp); push 8(%rsp); pop %rcx; push (%rsp); pop %rdx;"
                                     "mov %rsp, %rsi; push $3; mov %rsp, %rdi; push (%rsp); pop %r9;"
                                     "pop %r10"));
    R("push.mem-by-old-rsp", cpl, RCX, 99);
    R("push.mem-at-rsp", cpl, R9, 3);
    CHECK(at("push.rsp-steps", cpl), c.r[RSI] - c.r[RDI], 8);

    c = go("xchg", cpl, CODE("mov %rsp, %rcx; xchg %rsp, %rbx; push %rcx; pop %rdx; mov %rsp, %rsi;"
                             "xchg %rbx, %rsp; mov %rsp, %rdi; sub $64, %rsp; add $64, %rsp;"
                             "and $-16, %rsp; mov %rsp, %r8; lea 8(%rsp,%r9), %rsp; mov %rcx, %rsp"));
    R("xchg.rsp", cpl, RSI, (u64)words);
    R("xchg.rsp-back", cpl, RDI, top);
    R("and.rsp", cpl, R8, top & ~15ul);

    c = go("enter", cpl, CODE("mov %rsp, %rcx; push $7; mov %rsp, %rbp; enter $32, $0; mov %rsp, %rdx;"
                              "mov %rbp, %rsi; mov (%rbp), %rdi; leave; mov %rsp, %r8; pop %r9;"
                              "mov %rbp, %r10; mov %rcx, %rsp"));
    R("enter.rsp", cpl, RDX, top - 8 - 8 - 32);
    R("enter.rbp", cpl, RSI, top - 16);
    R("enter.saved", cpl, RDI, top - 8);
    R("leave.rsp", cpl, R8, top - 8);
    R("leave.rbp", cpl, R10, top - 8);
    c = go("enter-nested", cpl, CODE("mov %rsp, %rcx; lea 512(%rbx), %rbp; movq $0x11, -8(%rbp);"
                                     "movq $0x22, -16(%rbp); enter $16, $3; mov %rsp, %rdx;"
                                     "mov %rbp, %rsi; mov -8(%rbp), %rdi; mov -16(%rbp), %r8;"
                                     "mov -24(%rbp), %r9; mov %rcx, %rsp"));
    R("enter-nested.rsp", cpl, RDX, top - 8 - 24 - 16);
    R("enter-nested.rbp", cpl, RSI, top - 8);
    R("enter-nested.level1", cpl, RDI, 0x11);
    R("enter-nested.level2", cpl, R8, 0x22);
    R("enter-nested.own", cpl, R9, top - 8);
    c = go("leave", cpl, CODE("mov %rsp, %rcx; lea 24(%rbx), %rbp; leave; mov %rsp, %rdx;"
                              "mov %rcx, %rsp"));
    R("leave.from-rbp", cpl, RDX, (u64)words + 32);
    R("leave.new-rbp", cpl, RBP, words[3]);
}

static void test_calls(int cpl)
{
    u64 top = cpl ? USER_RSP : KERNEL_RSP;
    struct cpu c = go("call-mem", cpl, CODE(
        "lea 1f(%rip), %rcx; push %rcx; call *(%rsp); mov %rsp, %rdi; add $8, %rsp; jmp 2f;"
        "1: mov %rsp, %rsi; mov (%rsp), %rdx; ret; 2: nop"));
    R("call.rsp-mem.inside", cpl, RSI, top - 16);
    R("call.rsp-mem.after", cpl, RDI, top - 8);
    c = go("call-regs", cpl, CODE(
        "lea 1f(%rip), %r8; lea 1f(%rip), %r11; xor %ecx, %ecx; call *%r8; call *%r11;"
        "lea 1f(%rip), %rsi; call *%rsi; mov %rsi, 64(%rbx); call *64(%rbx); mov $8, %r9d;"
        "call *(%rbx,%r9,8); push %rsi; mov %rsp, %rdi; push $3f; ret; 1: inc %ecx; ret; 3: pop %rsi"));
    R("call.forms", cpl, RCX, 5);
    R("call.push-ret", cpl, RSP, top);
    c = go("ret-n", cpl, CODE("sub $24, %rsp; call 1f; mov %rsp, %rdx; jmp 2f; 1: ret $24; 2: nop"));
    R("ret.n", cpl, RDX, top);
    c = go("call-next", cpl, CODE("call 1f; 1: pop %rcx; lea 1b(%rip), %rdx"));
    CHECK(at("call.next", cpl), c.r[RCX], c.r[RDX]);
    c = go("deep", cpl, CODE("mov $100, %ecx; xor %edx, %edx; call 1f; jmp 2f;"
                             "1: inc %edx; dec %ecx; jz 3f; call 1b; 3: inc %edx; ret; 2: nop"));
    R("call.recursion", cpl, RDX, 200);
    /* A return address changed by the callee, and one used twice. */
    c = go("ret-changed", cpl, CODE("call 1f; ud2; jmp 2f; 1: addq $2, (%rsp); ret; 2: nop"));
    R("ret.changed", cpl, RSP, top);
    c = go("ret-twice", cpl, CODE("xor %ecx, %ecx; call 1f; inc %ecx; cmp $3, %ecx; je 2f;"
                                  "sub $8, %rsp; ret; 1: ret; 2: nop"));
    R("ret.twice", cpl, RCX, 3);

    for (u64 i = 0; i < 4; i++) {
        void *code = CODE("lea 8f(%rip), %rsi; lea 1f(%rip), %rdi; mov %rdi, (%rsi);"
                          "lea 2f(%rip), %rdi; mov %rdi, 8(%rsi); lea 3f(%rip), %rdi;"
                          "mov %rdi, 16(%rsi); lea 4f(%rip), %rdi; mov %rdi, 24(%rsi);"
                          "jmp *(%rsi,%rcx,8); 1: mov $10, %edx; jmp 5f; 2: mov $20, %edx; jmp 5f;"
                          "3: mov $30, %edx; jmp 5f; 4: mov $40, %edx; jmp 5f; .balign 8;"
                          "8: .quad 0, 0, 0, 0; 5: nop");
        run_with(cpl, code, 0, i, 0);
        CHECK(at("jmp.table", cpl), trap.c.r[RDX], 10 * (i + 1));
    }
}

static void test_loops(int cpl)
{
    struct cpu c = go("loop", cpl, CODE("mov $5, %ecx; xor %edx, %edx; 1: inc %edx; loop 1b"));
    R("loop.count", cpl, RDX, 5);
    R("loop.rcx", cpl, RCX, 0);
    c = go("loop32", cpl, CODE("mov $0x500000003, %rcx; xor %edx, %edx; 1: inc %edx; addr32 loop 1b"));
    R("loop.addr32-count", cpl, RDX, 3);
    R("loop.addr32-rcx", cpl, RCX, 0);
    c = go("loope", cpl, CODE("mov $9, %ecx; xor %edx, %edx; 1: inc %edx; cmp $4, %edx; loopne 1b"));
    R("loopne.count", cpl, RDX, 4);
    R("loopne.rcx", cpl, RCX, 5);
    CHECK(at("loopne.flags", cpl), c.rflags & F_ARITH, F_ZF | F_PF);
    c = go("loope", cpl, CODE("mov $9, %ecx; xor %edx, %edx; 1: inc %edx; cmp $4, %edx; setb %sil;"
                              "test %sil, %sil; setz %dil; cmp $0, %dil; loope 1b"));
    R("loope.count", cpl, RDX, 4);
    c = go("jrcxz", cpl, CODE("xor %ecx, %ecx; jrcxz 1f; ud2; 1: mov $0x100000000, %rcx; jrcxz 2f;"
                              "jecxz 3f; 2: ud2; 3: inc %ecx; jecxz 2b; jrcxz 2b; mov $7, %edx"));
    R("jrcxz", cpl, RDX, 7);
    c = go("flags", cpl, CODE("stc; mov $3, %ecx; 1: loop 1b; setc %dl; jrcxz 2f; 2: setc %dh"));
    R("loop.keeps-carry", cpl, RDX, 0x101);
}

static void test_locked(int cpl)
{
    struct cpu c;
    reset_words();
    c = go("lock", cpl, CODE(
        "lock addq $5, (%rbx); lock incl 8(%rbx); lock decw 16(%rbx); lock notb 24(%rbx);"
        "lock negq 32(%rbx); lock orq %rbx, 40(%rbx); lock xorq %r9, 48(%rbx); lock subq $1, 56(%rbx);"
        "mov $100, %ecx; lock xadd %rcx, 64(%rbx); mov $7, %r8d; xchg %r8, 72(%rbx);"
        "lock btsq $3, 80(%rbx); setc %dl; lock btrq $0, 88(%rbx); setc %dh; lock btcl $1, 96(%rbx)"));
    CHECK(at("lock.add", cpl), words[0], 5);
    CHECK(at("lock.inc", cpl), words[1], 0x0101010101010102);
    CHECK(at("lock.dec", cpl), words[2], 0x0202020202020201);
    CHECK(at("lock.not", cpl), words[3], 0x03030303030303FC);
    CHECK(at("lock.neg", cpl), words[4], -0x0404040404040404ul);
    CHECK(at("lock.or", cpl), words[5], 0x0505050505050505 | (u64)words);
    CHECK(at("lock.xor", cpl), words[6], 0x0606060606060606 ^ 9);
    CHECK(at("lock.sub", cpl), words[7], 0x0707070707070706);
    CHECK(at("lock.xadd-memory", cpl), words[8], 0x0808080808080808 + 100);
    R("lock.xadd-register", cpl, RCX, 0x0808080808080808);
    CHECK(at("xchg.memory", cpl), words[9], 7);
    R("xchg.register", cpl, R8, 0x0909090909090909);
    CHECK(at("lock.bts", cpl), words[10], 0x0A0A0A0A0A0A0A0A);
    CHECK(at("lock.btr", cpl), words[11], 0x0B0B0B0B0B0B0B0A);
    CHECK(at("lock.btc", cpl), words[12], 0x0C0C0C0C0C0C0C0E);
    R("lock.bit-carries", cpl, RDX, 0x101);

    reset_words();
    c = go("cmpxchg", cpl, CODE(
        "mov 8(%rbx), %rax; mov $55, %ecx; lock cmpxchg %rcx, 8(%rbx); setz %dl;"
        "mov $1, %eax; cmpxchg %r9d, 16(%rbx); setz %dh; mov %rax, %rsi;"
        "mov $3, %al; lock cmpxchg %cl, 24(%rbx); mov 32(%rbx), %ax; cmpxchg %r10w, 32(%rbx)"));
    CHECK(at("cmpxchg.equal", cpl), words[1], 55);
    R("cmpxchg.zf", cpl, RDX, 1);
    CHECK(at("cmpxchg.differs", cpl), words[2], 0x0202020202020202);
    R("cmpxchg.eax-loaded", cpl, RSI, 0x02020202);
    CHECK(at("cmpxchg.byte", cpl), words[3], 0x0303030303030337);
    CHECK(at("cmpxchg.word", cpl), words[4], 0x040404040404000A);

    reset_words();
    c = go("cmpxchg16b", cpl, CODE(
        "mov %rbx, %rdi; mov (%rdi), %rax; mov 8(%rdi), %rdx; mov $0x77, %ebx; mov $0x88, %ecx;"
        "lock cmpxchg16b (%rdi); setz %r8b; mov $1, %eax; mov $2, %edx; lock cmpxchg16b 16(%rdi);"
        "setz %r9b; mov %rax, %r10; mov %rdx, %r11; mov 32(%rdi), %eax; mov 36(%rdi), %edx;"
        "lock cmpxchg8b 32(%rdi); setz %r12b"));
    CHECK(at("cmpxchg16b.low", cpl), words[0], 0x77);
    CHECK(at("cmpxchg16b.high", cpl), words[1], 0x88);
    R("cmpxchg16b.zf", cpl, R8, 1);
    R("cmpxchg16b.differs", cpl, R9, 0);
    R("cmpxchg16b.rax", cpl, R10, words[2]);
    R("cmpxchg16b.rdx", cpl, R11, words[3]);
    CHECK(at("cmpxchg8b", cpl), words[4], 0x0000008800000077);
}

static void test_bits(int cpl)
{
    static const i64 offsets[] = { 0, 63, 64, 1000, -1, -64, -1000, 0x3FF };
    for (int i = 0; i < 8; i++) {
        reset_words();
        i64 bit = offsets[i];
        u64 *word = &words[32 + (bit >> 6)], before = *word, mask = 1ul << (bit & 63);
        void *codes[] = { CODE("bt %rcx, (%rax); setc %dl"), CODE("bts %rcx, (%rax); setc %dl"),
                          CODE("lock btr %rcx, (%rax); setc %dl"), CODE("btc %rcx, (%rax); setc %dl") };
        for (int k = 0; k < 4; k++) {
            *word = before;
            run_with(cpl, codes[k], (u64)&words[32], (u64)bit, 0);
            u64 want = k == 0 ? before : k == 1 ? before | mask : k == 2 ? before & ~mask : before ^ mask;
            char name[64];
            format_name(name, "bit-string.%d.offset%ld", k, bit);
            CHECK(at(with(name, "memory"), cpl), *word, want);
            CHECK(at(with(name, "carry"), cpl), trap.c.r[RDX], before & mask ? 1 : 0);
        }
    }
    reset_words();
    struct cpu c = go("bt32", cpl, CODE(
        "mov $-33, %ecx; bts %ecx, (%rax); mov $-17, %dx; btc %dx, (%rax); mov $100, %r9d;"
        "btr %r9d, 4(%rax); mov $0x7FFFFFFF, %ecx; bt $31, %ecx; setc %sil; btq $65, (%rax)"));
    CHECK(at("bit-string.dword", cpl), words[31],
          (0x1F1F1F1F1F1F1F1F | 1ul << 31) ^ 1ul << 47);
    R("bt.register", cpl, RSI, 0);
    /* Far away: 2^33 bits are 1 GiB. */
    u64 page = WINDOW;
    map4k(page, FREE_RAM, P_P | P_W | P_U);
    *(u64 *)FREE_RAM = 0;
    void *far_off = CODE("bts %rcx, (%rax)");
    run_with(cpl, far_off, page - (1ul << 30), 1ul << 33, 0);
    check_end(at("bit-string.far", cpl), far_off);
    CHECK(at("bit-string.far-value", cpl), *(u64 *)FREE_RAM, 1);
    run_with(cpl, far_off, page, 0x8000, 0);
    check_pf(at("bit-string.fault", cpl), far_off, PF_W | (cpl ? PF_U : 0), page + 0x1000);
    run_with(cpl, far_off, page, 1ul << 62, 0);
    check_fault(at("bit-string.non-canonical", cpl), far_off, V_GP, 0);
}

static void test_odd(int cpl)
{
    reset_words();
    struct cpu c = go("xlat", cpl, CODE("mov $9, %al; xlatb; mov %al, %cl; mov $0x1234FF, %rax;"
                                        "movb $0x5C, 255(%rbx); xlatb; mov %rax, %rdx"));
    R("xlat", cpl, RCX, 1);
    R("xlat.zero-extends-al", cpl, RDX, 0x12345C);
    reset_words();
    c = go("high-bytes", cpl, CODE(
        "mov $0x1234, %ecx; mov %ch, 8(%rbx); mov 17(%rbx), %dh; add %ch, %dl; xchg %ah, %al;"
        "mov %dh, %cl; movzbl %ch, %esi; cmp %ch, 8(%rbx); sete %bl; mov $0x8877, %eax; mov %ah, %bh"));
    CHECK(at("high-bytes.store", cpl), words[1], 0x0101010101010112);
    R("high-bytes.movzx", cpl, RSI, 0x12);
    CHECK(at("high-bytes.load", cpl), c.r[RDX] & 0xFFFF, 0x0214);
    CHECK(at("high-bytes.cmp-mov", cpl), c.r[RBX] & 0xFFFF, 0x8801);
    c = go("zero-extension", cpl, CODE(
        "mov $-1, %rcx; mov %ecx, %ecx; mov $-1, %r8; mov %r8d, %r8d; mov $-1, %r9; xor %r9d, %r9d;"
        "mov $-1, %r10; mov $-2, %r10w; mov $-1, %r11; mov $1, %r11b; mov $-1, %rdx; add $0, %edx;"
        "mov $-1, %rsi; cmp %rsi, %rsi; cmovne %esi, %esi; mov $-1, %rdi; mov $0, %ecx;"
        "shl %cl, %edi; mov $-1, %r12; bsf %r13d, %r12d; mov $-1, %r14; xchg %r14d, %r14d"));
    R("zero-extension.r8", cpl, R8, 0xFFFFFFFF);
    R("zero-extension.r9", cpl, R9, 0);
    R("zero-extension.r10w", cpl, R10, ~1ul);
    R("zero-extension.r11b", cpl, R11, 0xFFFFFFFFFFFFFF01);
    R("zero-extension.rdx", cpl, RDX, 0xFFFFFFFF);
    R("zero-extension.cmov-not-taken", cpl, RSI, 0xFFFFFFFF);
    R("zero-extension.shift-by-0", cpl, RDI, 0xFFFFFFFF);
    R("zero-extension.xchg", cpl, R14, 0xFFFFFFFF);
    c = go("nop-xchg", cpl, CODE("mov $-1, %rax; nop; .byte 0x49, 0x90; mov %rax, %rcx; mov %r8, %rdx"));
    R("xchg-r8-rax", cpl, RCX, 8);
    R("xchg-rax-r8", cpl, RDX, ~0ul);
    c = go("shift-flags", cpl, CODE("stc; mov $0, %cl; mov $5, %edx; shl %cl, %edx; setc %sil;"
                                    "mov $32, %cl; shl %cl, %edx; setc %dil; mov $64, %cl;"
                                    "stc; ror %cl, %rdx; setc %r8b"));
    R("shift-by-0.carry", cpl, RSI, 1);
    R("shift-by-32.carry", cpl, RDI, 1);
    R("rotate-by-64.carry", cpl, R8, 1);
    c = go("mul", cpl, CODE("mov $-1, %rax; mov $-1, %r8; mul %r8; mov %rax, %rsi; mov %rdx, %rdi;"
                            "mov $100, %eax; xor %edx, %edx; mov $7, %r9d; div %r9; mov %rax, %r10;"
                            "mov %rdx, %r11; mov $3, %r8d; imul $-5, %r8, %r8; mulq 8(%rbx)"));
    R("mul.low", cpl, RSI, 1);
    R("mul.high", cpl, RDI, ~1ul);
    R("div.quotient", cpl, R10, 14);
    R("div.remainder", cpl, R11, 2);
    R("imul.imm", cpl, R8, (u64)-15);
    /* CMOVcc reads memory even when it does not move. */
    void *cmov = CODE("cmp %eax, %eax; mov $0x123456000, %rdx;" MARK "cmovne (%rdx), %rcx");
    run_code(cpl, cmov);
    check_pf(at("cmov.reads-always", cpl), cmov, cpl ? PF_U : 0, 0x123456000);
}

static void test_vector(int cpl)
{
    reset_words();
    for (int i = 0; i < 16; i++)
        ((u8 *)&words[48])[i] = i & 1 ? 0x80 : 0;
    go("maskmov", cpl, CODE("movdqu (%rax), %xmm1; movdqu 384(%rbx), %xmm2; lea 64(%rbx), %rdi;"
                            "maskmovdqu %xmm2, %xmm1"));
    CHECK(at("maskmovdqu.low", cpl), words[8], 0x2008200820082008);
    CHECK(at("maskmovdqu.high", cpl), words[9], 0x2109210921092109);
    struct cpu c = go("movs", cpl, CODE(
        "movaps (%rbx), %xmm0; movups 8(%rbx), %xmm15; paddq %xmm0, %xmm15; movups %xmm15, 128(%rbx);"
        "pinsrq $1, %rax, %xmm0; pextrq $1, %xmm0, %rcx; pextrq $0, %xmm15, %r8; movd %r9d, %xmm3;"
        "pinsrd $2, 4(%rbx), %xmm3; pextrd $0, %xmm3, %r10d; crc32q 8(%rbx), %r11; pcmpistri $0, %xmm0, %xmm0;"
        "movmskps %xmm0, %esi; cvttsd2si %xmm3, %r14"));
    R("pextrq", cpl, RAX, c.r[RAX]);
    CHECK(at("movups.store", cpl), words[16], 0x0101010101010101);
    R("pextrq.r8", cpl, R8, 0x0101010101010101);
    R("pextrd.r10d", cpl, R10, 9);
    if (!(cpuid(1, 0).ecx & 1 << 28) || !(cpuid(7, 0).ebx & 1 << 5))
        return;
    reset_words();
    ((u32 *)&words[40])[0] = 1;
    ((u32 *)&words[40])[1] = 3;
    ((u32 *)&words[40])[2] = (u32)-2;
    ((u32 *)&words[40])[3] = 5;
    c = go("gather", cpl, CODE(
        "movdqu 320(%rbx), %xmm1; pcmpeqd %xmm2, %xmm2; pxor %xmm0, %xmm0;"
        "vpgatherdd %xmm2, (%rax,%xmm1,8), %xmm0; pextrd $0, %xmm0, %ecx; pextrd $2, %xmm0, %edx;"
        "pextrd $3, %xmm0, %esi; pextrd $0, %xmm2, %edi; mov %rax, %r9; movq %r9, %xmm3;"
        "pxor %xmm4, %xmm4; movq %xmm4, %xmm4; pcmpeqd %xmm5, %xmm5; psrldq $8, %xmm5;"
        "mov $0, %r8d; vpgatherqq %xmm5, 8(%r8,%xmm3,1), %xmm6; movq %xmm6, %r11"));
    R("gather.element0", cpl, RCX, (u32)words[33]);
    R("gather.negative-index", cpl, RDX, (u32)words[30]);
    R("gather.element3", cpl, RSI, (u32)words[37]);
    R("gather.mask-cleared", cpl, RDI, 0);
    R("gather.64-bit-index", cpl, R11, words[33]);
    /* Masked-off elements are not touched; a faulting one leaves the finished ones. */
    u64 page = WINDOW + 0x10000;
    map4k(page, FREE_RAM, P_P | P_W | P_U);
    for (u64 i = 0; i < 512; i++)
        ((u64 *)FREE_RAM)[i] = i;
    void *masked = CODE("pcmpeqd %xmm2, %xmm2; psrldq $8, %xmm2; vmovups %xmm2, %xmm2;"
                        "vmaskmovps 4088(%rax), %xmm2, %xmm0; pextrd $0, %xmm0, %ecx;"
                        "vmaskmovps %xmm0, %xmm2, 4088(%rax); pextrd $2, %xmm0, %edx");
    run_with(cpl, masked, page, 0, 0);
    check_end(at("vmaskmov.no-fault", cpl), masked);
    CHECK(at("vmaskmov.loaded", cpl), trap.c.r[RCX], 511);
    CHECK(at("vmaskmov.zeroed", cpl), trap.c.r[RDX], 0);
    void *gather = CODE("movdqu (%rax), %xmm1; pcmpeqd %xmm2, %xmm2; pxor %xmm0, %xmm0; mov %rcx, %rbx;"
                        MARK "vpgatherdd %xmm2, (%rcx,%xmm1,4), %xmm0");
    ((u32 *)user_stack)[0] = 2;
    ((u32 *)user_stack)[1] = 4;
    ((u32 *)user_stack)[2] = 0x100000;
    ((u32 *)user_stack)[3] = 6;
    run_with(cpl, gather, (u64)user_stack, page, 0);
    check_pf(at("gather.fault", cpl), gather, cpl ? PF_U : 0, page + 0x400000);
    u32 done, mask0, mask2;
    asm volatile("pextrd $0, %%xmm0, %0; pextrd $0, %%xmm2, %1; pextrd $2, %%xmm2, %2"
                 : "=r"(done), "=r"(mask0), "=r"(mask2));
    CHECK(at("gather.fault.mask", cpl), mask2, 0xFFFFFFFF);
    CHECK(at("gather.fault.finished-or-not", cpl), mask0 == 0 ? done : 1, 1);
    void *prefetch = CODE("prefetcht0 (%rax); prefetchnta (%rax); prefetchw (%rax); nopw (%rax)");
    run_with(cpl, prefetch, 0x8000000000000000, 0, 0);
    check_end(at("prefetch.no-fault", cpl), prefetch);
}

void guest_main(void)
{
    EACH_CPL(cpl) {
        test_stack(cpl);
        test_calls(cpl);
        test_loops(cpl);
        test_locked(cpl);
        test_bits(cpl);
        test_odd(cpl);
        test_vector(cpl);
    }
}
