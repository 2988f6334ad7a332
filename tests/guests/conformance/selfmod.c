/* Code that changes: by itself, through another linear address, by remapping, by a new CR3. Each
   change must be seen at the next execution, as the processor does after a jump (SDM 3A 8.1.3, 11.6). */
#include "guest.h"

static u8 code_page[16384] UBSS ALIGNED(4096);

/* mov $value, %eax; int $0x81 */
static void put_return(u8 *at, u32 value)
{
    at[0] = 0xB8;
    *(u32 *)(at + 1) = value;
    at[5] = 0xCD;
    at[6] = V_END;
}

static u64 result(int cpl, u64 address)
{
    run_code(cpl, (void *)address);
    return trap.vector == V_END ? trap.c.r[RAX] : 0xBAD00000 | trap.vector;
}

static void test_rewritten(int cpl)
{
    for (u32 i = 0; i < 20; i++) {
        put_return(code_page + 64, i * 3 + 1);
        CHECK(at("rewritten.same-place", cpl), result(cpl, (u64)code_page + 64), i * 3 + 1);
    }
    /* Only the immediate, one byte of it, or another instruction altogether. */
    code_page[65] = 0x77;
    CHECK(at("rewritten.one-byte", cpl), result(cpl, (u64)code_page + 64), 0x77);
    code_page[64] = 0xB9;
    CHECK(at("rewritten.opcode", cpl), (result(cpl, (u64)code_page + 64), trap.c.r[RCX]), 0x77);
    code_page[64] = 0x0F;
    code_page[65] = 0x0B;
    run_code(cpl, code_page + 64);
    CHECK(at("rewritten.ud2", cpl), trap.vector, V_UD);
    /* With a string instruction, a locked one, a vector store, a push. */
    put_return(code_page + 512, 0x5555);
    put_return(code_page + 64, 1);
    result(cpl, (u64)code_page + 64);
    asm volatile("rep movsb" :: "S"(code_page + 512), "D"(code_page + 64), "c"(7ul) : "memory");
    CHECK(at("rewritten.movsb", cpl), result(cpl, (u64)code_page + 64), 0x5555);
    asm volatile("lock incl 1(%0)" :: "r"(code_page + 64) : "memory");
    CHECK(at("rewritten.lock-inc", cpl), result(cpl, (u64)code_page + 64), 0x5556);
    put_return(code_page + 512, 0x66667777);
    asm volatile("movups (%0), %%xmm0; movups %%xmm0, (%1)" :: "r"(code_page + 512),
                 "r"(code_page + 64) : "memory");
    CHECK(at("rewritten.movups", cpl), result(cpl, (u64)code_page + 64), 0x66667777);
    asm volatile("xchg %%rsp, %1; push %0; xchg %%rsp, %1" :: "r"(0x81CD0000000BB8ul),
                 "r"(code_page + 72) : "memory");
    CHECK(at("rewritten.push", cpl), result(cpl, (u64)code_page + 64), 11);
    asm volatile("fxsave (%0)" :: "r"(code_page + 1024) : "memory");
    CHECK(at("rewritten.elsewhere-on-page", cpl), result(cpl, (u64)code_page + 64), 11);
}

/* The code itself stores into what it is about to run. */
static void test_itself(int cpl)
{
    void *next = CODE("movb $0x22, 1f+1(%rip); jmp 1f; 1: mov $0x11, %eax");
    run_code(cpl, next);
    check_end(at("itself.next-after-jump", cpl), next);
    CHECK(at("itself.next-after-jump.value", cpl), trap.c.r[RAX], 0x22);
    /* Even without a jump the processor runs the new bytes. */
    void *straight = CODE("movb $0x44, 1f+1(%rip); 1: mov $0x33, %eax");
    run_code(cpl, straight);
    CHECK(at("itself.next-instruction", cpl), trap.c.r[RAX], 0x44);
    void *counted = CODE("mov $10, %ecx; xor %edx, %edx; 1: incb 2f+1(%rip); 2: mov $0, %al;"
                         "add %al, %dl; loop 1b");
    run_code(cpl, counted);
    check_end(at("itself.in-a-loop", cpl), counted);
    CHECK(at("itself.in-a-loop.sum", cpl), trap.c.r[RDX], cpl ? 55 + 100 : 55);
    /* Replaces its own beginning with INT 81h and goes there. */
    void *eats = CODE("1: movw $0x81CD, 1b(%rip); jmp 1b");
    run_code(cpl, eats);
    CHECK(at("itself.beginning", cpl), trap.c.rip, (u64)eats + 2);
    /* A called function rewritten between two calls. */
    void *calls = CODE("call 1f; mov %eax, %ecx; movb $9, 1f+1(%rip); call 1f; add %eax, %ecx; jmp 2f;"
                       "1: mov $5, %eax; ret; 2: movb $5, 1b+1(%rip)");
    run_code(cpl, calls);
    CHECK(at("itself.called-function", cpl), trap.c.r[RCX], 14);
    /* A conditional jump turned round behind us. */
    void *jcc = CODE("mov $2, %ecx; xor %edx, %edx; 1: test %edx, %edx; 2: jnz 3f; inc %edx;"
                     "movb $0x74, 2b(%rip); dec %ecx; jnz 1b; jmp 4f; 3: mov $7, %esi; 4:"
                     "movb $0x75, 2b(%rip)");
    run_code(cpl, jcc);
    check_end(at("itself.jcc", cpl), jcc);
    CHECK(at("itself.jcc.path", cpl), trap.c.r[RSI] * 10 + trap.c.r[RDX], 2);
}

/* Data written beside the code, in the same page, again and again. */
static void test_mixed(int cpl)
{
    put_return(code_page + 64, 0x1234);
    void *code = CODE("mov $300, %ecx; 1: incq 2f(%rip); call 3f; loop 1b; jmp 4f; .balign 8;"
                      "2: .quad 0; 3: inc %edx; ret; 4: mov 2b(%rip), %rsi; movq $0, 2b(%rip)");
    run_code(cpl, code);
    check_end(at("mixed.counter", cpl), code);
    CHECK(at("mixed.counter.value", cpl), trap.c.r[RSI], 300);
    CHECK(at("mixed.counter.calls", cpl), trap.c.r[RDX], 300);
    u64 wrong = 0;
    for (u32 i = 0; i < 50; i++) {
        *(u32 *)(code_page + 256) = i;
        wrong += result(cpl, (u64)code_page + 64) != 0x1234;
        put_return(code_page + 2048, i);
        wrong += result(cpl, (u64)code_page + 2048) != i;
    }
    CHECK(at("mixed.interleaved", cpl), wrong, 0);
}

/* An instruction over a page boundary, either half changed. */
static void test_crossing(int cpl)
{
    u8 *edge = code_page + 4096;
    for (u32 split = 1; split < 5; split++) {
        char name[64];
        put_return(edge - split, 0x01020304);
        format_name(name, "crossing.split%u", split);
        CHECK(at(name, cpl), result(cpl, (u64)edge - split), 0x01020304);
        edge[4 - split] = 0x55;             /* the last byte of the immediate */
        CHECK(at(with(name, "second-half"), cpl), result(cpl, (u64)edge - split), 0x55020304);
        if (split > 1) {
            edge[1 - (int)split] = 0x66;    /* its first byte */
            CHECK(at(with(name, "first-half"), cpl), result(cpl, (u64)edge - split), 0x55020366);
        }
        edge[-(int)split] = 0xB9;
        result(cpl, (u64)edge - split);
        CHECK(at(with(name, "opcode"), cpl), trap.c.r[RCX] >> 24, 0x55);
    }
}

static const u64 first = WINDOW + 0x40000000, second = HIGH_WINDOW + 0x40000000;
static const u64 frame_a = FREE_RAM, frame_b = FREE_RAM + 0x1000;
enum { RWU = 7 };

static void test_aliases(int cpl)
{
    map4k(first, frame_a, RWU);
    map4k(second, frame_a, RWU);
    for (u32 i = 0; i < 5; i++) {
        put_return((u8 *)frame_a, 100 + i);
        CHECK(at("alias.physical-write", cpl), result(cpl, first), 100 + i);
        CHECK(at("alias.second", cpl), result(cpl, second), 100 + i);
        *(volatile u32 *)(second + 1) = 200 + i;
        CHECK(at("alias.high-write", cpl), result(cpl, first), 200 + i);
        *(volatile u32 *)(first + 1) = 300 + i;
        CHECK(at("alias.low-write", cpl), result(cpl, second), 300 + i);
    }
    /* RIP-relative code gives its own address at each. */
    static const u8 where[] = { 0x48, 0x8D, 0x05, 0, 0, 0, 0, 0xCD, V_END };
    memcpy((void *)frame_a, where, sizeof where);
    CHECK(at("alias.lea-rip.low", cpl), result(cpl, first), first + 7);
    CHECK(at("alias.lea-rip.high", cpl), result(cpl, second), second + 7);
    static const u8 caller[] = { 0xE8, 0, 0, 0, 0, 0x58, 0xCD, V_END };
    memcpy((void *)frame_a, caller, sizeof caller);
    CHECK(at("alias.call.low", cpl), result(cpl, first), first + 5);
    CHECK(at("alias.call.high", cpl), result(cpl, second), second + 5);
    /* Code that writes itself through its alias. */
    u8 *p = (u8 *)frame_a;
    p[0] = 0xC6; p[1] = 0x41; p[2] = 7; p[3] = 0x99;    /* movb $0x99, 7(%rcx) */
    p[4] = 0xEB; p[5] = 0;                              /* jmp to the next */
    put_return(p + 6, 0x11);
    run_with(cpl, (void *)first, 0, second, 0);
    CHECK(at("alias.writes-itself", cpl), trap.c.r[RAX], 0x99);
    /* The write comes through a read-only code mapping's writable alias. */
    map4k(first, frame_a, P_P | P_U);
    put_return((u8 *)frame_a, 1);
    result(cpl, first);
    *(volatile u32 *)(second + 1) = 0xABC;
    CHECK(at("alias.read-only-code", cpl), result(cpl, first), 0xABC);
}

static void test_remapped(int cpl)
{
    put_return((u8 *)frame_a, 0xA);
    put_return((u8 *)frame_b, 0xB);
    map4k(first, frame_a, RWU);
    for (int i = 0; i < 4; i++) {
        CHECK(at("remap.a", cpl), result(cpl, first), 0xA);
        map4k(first, frame_b, RWU);         /* with INVLPG */
        CHECK(at("remap.b", cpl), result(cpl, first), 0xB);
        map4k(first, frame_a, RWU);
    }
    *entry_at(boot_root, first, L_4K) = frame_b | RWU;
    write_cr3(boot_root);
    CHECK(at("remap.by-cr3", cpl), result(cpl, first), 0xB);
    *entry_at(boot_root, first, L_4K) = frame_b | RWU | P_NX;
    invlpg(first);
    run_code(cpl, (void *)first);
    check_trap_at(at("remap.now-nx", cpl), first, V_PF, PF_P | PF_I | (cpl ? PF_U : 0));
    map4k(first, 0, 0);
    run_code(cpl, (void *)first);
    check_trap_at(at("remap.gone", cpl), first, V_PF, PF_I | (cpl ? PF_U : 0));
    map4k(first, frame_a, RWU & ~P_U);
    run_code(cpl, (void *)first);
    if (cpl)
        check_trap_at("remap.supervisor.cpl3", first, V_PF, PF_P | PF_I | PF_U);
    else
        CHECK("remap.supervisor.cpl0", trap.c.r[RAX], 0xA);
    map4k(first, frame_a, RWU);

    /* A direct call and a jump into the page from another, which stay bound to the address. */
    u64 caller = first + 0x1000;
    map4k(caller, frame_b, RWU);
    u8 *p = (u8 *)frame_b;
    p[0] = 0xE8;
    *(i32 *)(p + 1) = -0x1000 - 5;          /* call first */
    p[5] = 0xCD;
    p[6] = V_END;
    u8 *callee = (u8 *)frame_a;
    callee[0] = 0xB8;
    *(u32 *)(callee + 1) = 0x111;
    callee[5] = 0xC3;
    u8 *third = (u8 *)FREE_RAM + 0x2000;
    memcpy(third, callee, 6);
    *(u32 *)(third + 1) = 0x222;
    CHECK(at("remap.callee-before", cpl), result(cpl, caller), 0x111);
    CHECK(at("remap.callee-again", cpl), result(cpl, caller), 0x111);
    map4k(first, FREE_RAM + 0x2000, RWU);
    CHECK(at("remap.callee-after", cpl), result(cpl, caller), 0x222);
    *(u32 *)(third + 1) = 0x333;
    CHECK(at("remap.callee-rewritten", cpl), result(cpl, caller), 0x333);
    map4k(first, 0, 0);
    run_code(cpl, (void *)caller);
    check_trap_at(at("remap.callee-gone", cpl), first, V_PF, PF_I | (cpl ? PF_U : 0));
    map4k(first, frame_a, RWU);
    CHECK(at("remap.callee-back", cpl), result(cpl, caller), 0x111);
}

/* One linear address, other code in each address space; shared code beside it. */
static void test_spaces(int cpl)
{
    enum { SPACES = 4 };
    u64 roots[SPACES], shared = first + 0x200000;
    static const u8 jump[] = { 0xFF, 0xE1 };        /* jmp *%rcx */
    for (u64 i = 0; i < SPACES; i++) {
        u64 frame = FREE_RAM + 0x10000 + i * 0x1000;
        roots[i] = new_root();
        *entry_at(roots[i], first, L_512G) = 0;
        *entry_at(roots[i], first, L_4K) = frame | RWU;
        *entry_at(roots[i], shared, L_4K) = (FREE_RAM + 0x20000) | RWU;
        put_return((u8 *)frame, (u32)(0xC0DE00 + i));
    }
    memcpy((void *)(FREE_RAM + 0x20000), jump, sizeof jump);
    for (int turn = 0; turn < 3; turn++)
        for (u64 i = 0; i < SPACES; i++) {
            write_cr3(roots[i]);
            CHECK(at("spaces.own", cpl), result(cpl, first), 0xC0DE00 + i);
            run_with(cpl, (void *)shared, 0, first, 0);
            CHECK(at("spaces.by-shared-jump", cpl), trap.c.r[RAX], 0xC0DE00 + i);
        }
    *(u32 *)(FREE_RAM + 0x10000 + 0x2000 + 1) = 0xFEED;
    write_cr3(roots[2]);
    CHECK(at("spaces.rewritten-while-away", cpl), result(cpl, first), 0xFEED);
    *entry_at(roots[1], first, L_4K) = (FREE_RAM + 0x13000) | RWU;
    write_cr3(roots[1]);
    CHECK(at("spaces.remapped-while-away", cpl), result(cpl, first), 0xC0DE03);
    write_cr3(roots[0]);
    CHECK(at("spaces.others-kept", cpl), result(cpl, first), 0xC0DE00);
    write_cr3(boot_root);
}

/* The same bytes at CPL 0 and CPL 3 are not the same code. */
static void test_levels(void)
{
    static const u8 bytes[] = { 0x8C, 0xC8, 0xCD, V_END };  /* mov %cs, %eax */
    memcpy(code_page, bytes, sizeof bytes);
    for (int i = 0; i < 4; i++) {
        CHECK("levels.cpl0", result(0, (u64)code_page), KCODE);
        CHECK("levels.cpl3", result(3, (u64)code_page), UCODE);
    }
}

void guest_main(void)
{
    EACH_CPL(cpl) {
        test_rewritten(cpl);
        test_itself(cpl);
        test_mixed(cpl);
        test_crossing(cpl);
        test_aliases(cpl);
        test_remapped(cpl);
        test_spaces(cpl);
    }
    test_levels();
}
