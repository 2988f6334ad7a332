/* Accessed and dirty bits, and when a change of the tables must be seen: INVLPG, CR3 loads, global
   pages, large pages, several address spaces, aliases (SDM 3A 4.8, 4.10). */
#include "guest.h"

static const u64 page = WINDOW + 0x80000000;
static const u64 frame_a = FREE_RAM, frame_b = FREE_RAM + 0x1000, frame_c = FREE_RAM + 0x2000;
enum { RWU = 7 };

/* Through the tables now in force, so volatile. */
static u64 load(u64 linear) { return *(volatile u64 *)linear; }
static void store(u64 linear, u64 value) { *(volatile u64 *)linear = value; }

static void fill_frames(void)
{
    memset((void *)frame_a, 0xAA, 4096);
    memset((void *)frame_b, 0xBB, 4096);
    memset((void *)frame_c, 0xCC, 4096);
}
#define WORD_A 0xAAAAAAAAAAAAAAAA
#define WORD_B 0xBBBBBBBBBBBBBBBB

static u64 ad(const u64 *entry)
{
    return *entry & (P_A | P_D);
}

static void clear_ad(u64 linear, int lowest)
{
    for (int level = lowest; level <= L_512G; level++)
        *entry_at(boot_root, linear, level) &= ~(P_A | P_D);
    invlpg(linear);
}

static void upper_check(const char *name, u64 linear, int lowest, u64 want)
{
    for (int level = lowest + 1; level <= L_512G; level++) {
        char full[64];
        format_name(full, "%s.level%d", name, level);
        CHECK(full, *entry_at(boot_root, linear, level) & P_A, want);
        /* Bit 6 of an entry that maps no page is ignored, so not written. */
        format_name(full, "%s.level%d-bit6", name, level);
        CHECK(full, *entry_at(boot_root, linear, level) & P_D, 0);
    }
}

static void ad_check(const char *name, void *code, int cpl, u64 want)
{
    u64 *leaf = entry_at(boot_root, page, L_4K);
    clear_ad(page, L_4K);
    clear_ad(page + 0x1000, L_4K);
    struct cpu c = at_cpl(cpl, code);
    c.r[RAX] = page + 0x100;
    c.r[RDI] = page + 0x100;
    c.r[RSI] = (u64)user_stack;
    c.r[RCX] = 2;
    run(&c);
    CHECK(at(with("ad-end", name), cpl), trap.vector, V_END);
    CHECK(at(with("ad", name), cpl), ad(leaf), want);
}

static void test_accessed_dirty(void)
{
    map4k(page, frame_a, RWU);
    map4k(page + 0x1000, frame_b, RWU);
    EACH_CPL(cpl) {
        ad_check("load", CODE("mov (%rax), %rdx"), cpl, P_A);
        ad_check("store", CODE("mov %rdx, (%rax)"), cpl, P_A | P_D);
        ad_check("add", CODE("add %rdx, (%rax)"), cpl, P_A | P_D);
        ad_check("cmp", CODE("cmp %rdx, (%rax)"), cpl, P_A);
        ad_check("lock-inc", CODE("lock incl (%rax)"), cpl, P_A | P_D);
        ad_check("cmpxchg-fails", CODE("lock cmpxchg %rdx, (%rax)"), cpl, P_A | P_D);
        ad_check("stos", CODE("rep stosb"), cpl, P_A | P_D);
        ad_check("movs", CODE("rep movsb"), cpl, P_A | P_D);
        ad_check("cmps", CODE("repe cmpsb"), cpl, P_A);
        ad_check("stos-zero-times", CODE("xor %ecx, %ecx; rep stosb"), cpl, 0);
        ad_check("push", CODE("xchg %rax, %rsp; push %rdx; xchg %rax, %rsp"), cpl, P_A | P_D);
        ad_check("pop", CODE("xchg %rax, %rsp; pop %rdx; xchg %rax, %rsp"), cpl, P_A);
        ad_check("movups-store", CODE("movups %xmm0, (%rax)"), cpl, P_A | P_D);
        ad_check("lea", CODE("lea (%rax), %rdx"), cpl, 0);
        ad_check("nop", CODE("nopl (%rax)"), cpl, 0);
        ad_check("load-then-store", CODE("mov (%rax), %rdx; mov %rdx, 8(%rax)"), cpl, P_A | P_D);
        ad_check("sgdt", CODE("sgdt (%rax)"), cpl, P_A | P_D);
        ad_check("crossing-load", CODE("mov 0xEFC(%rax), %rdx"), cpl, P_A);
        CHECK(at("ad.crossing-load-second", cpl), ad(entry_at(boot_root, page + 0x1000, L_4K)), P_A);
        ad_check("crossing-store", CODE("mov %rdx, 0xEFC(%rax)"), cpl, P_A | P_D);
        CHECK(at("ad.crossing-store-second", cpl), ad(entry_at(boot_root, page + 0x1000, L_4K)),
              P_A | P_D);
    }
    clear_ad(page, L_4K);
    upper_check("a-untouched", page, L_4K, 0);
    load(page);
    upper_check("a-after-load", page, L_4K, P_A);

    *(u16 *)frame_a = 0x81CD;
    EACH_CPL(cpl) {
        clear_ad(page, L_4K);
        run_code(cpl, (void *)page);
        CHECK(at("ad.fetch", cpl), ad(entry_at(boot_root, page, L_4K)), P_A);
    }

    /* A write that is refused makes nothing dirty. */
    void *code = CODE("mov %edx, (%rax)");
    map4k(page, frame_a, P_P | P_U);
    run_with(3, code, page, 0, 0);
    CHECK("ad.refused-write", *entry_at(boot_root, page, L_4K) & P_D, 0);

    /* Clean again, with INVLPG as the manual asks: the next write must set D anew. */
    map4k(page, frame_a, RWU);
    for (int i = 0; i < 3; i++) {
        store(page, 1);
        CHECK("ad.dirty-again", ad(entry_at(boot_root, page, L_4K)), P_A | P_D);
        *entry_at(boot_root, page, L_4K) &= ~P_D;
        invlpg(page);
        load(page);
        CHECK("ad.clean-after-load", ad(entry_at(boot_root, page, L_4K)), P_A);
        *entry_at(boot_root, page, L_4K) &= ~(P_A | P_D);
        write_cr3(read_cr3());
        CHECK("ad.cleared", ad(entry_at(boot_root, page, L_4K)), 0);
    }
}

static void test_large_ad(int level, const char *size)
{
    u64 *entry = entry_at(boot_root, page, level), saved = *entry;
    *entry = (level == L_1G ? 0 : frame_a) | RWU | P_PS;
    char name[64];
    clear_ad(page, level);
    load(page + 0x2000);
    format_name(name, "ad.%s.load", size);
    CHECK(name, ad(entry), P_A);
    upper_check(name, page, level, P_A);
    store(page + (level == L_1G ? frame_c : 0x3000), 0);
    format_name(name, "ad.%s.store", size);
    CHECK(name, ad(entry), P_A | P_D);
    *entry = saved;
    invlpg(page);
}

static void test_invlpg(void)
{
    fill_frames();
    map4k(page, frame_a, RWU);
    CHECK("invlpg.before", load(page), WORD_A);
    *entry_at(boot_root, page, L_4K) = frame_b | RWU;
    invlpg(page + 0x123);
    CHECK("invlpg.remapped", load(page), WORD_B);
    store(page + 8, 5);
    CHECK("invlpg.write-goes-there", *(volatile u64 *)(frame_b + 8), 5);
    CHECK("invlpg.not-elsewhere", *(volatile u64 *)(frame_a + 8), WORD_A);

    void *code = CODE("mov (%rax), %rcx");
    *entry_at(boot_root, page, L_4K) = 0;
    invlpg(page);
    run_with(0, code, page, 0, 0);
    check_pf("invlpg.unmapped", code, 0, page);
    /* Becoming present needs no INVLPG: absence is never cached. */
    *entry_at(boot_root, page, L_4K) = frame_a | RWU;
    CHECK("no-invlpg.present", load(page), WORD_A);

    /* A table replaced above the leaf. */
    u64 *pd = entry_at(boot_root, page, L_2M), saved = *pd;
    u64 table = new_table();
    ((u64 *)table)[page >> 12 & 511] = frame_b | RWU;
    *pd = table | RWU;
    invlpg(page);
    CHECK("invlpg.table-replaced", load(page), WORD_B);
    *pd = frame_a | RWU | P_PS;
    invlpg(page);
    CHECK("invlpg.becomes-large", load(page + 0x1010), WORD_B);
    *(volatile u64 *)(frame_a + 0x200000) = 77;
    *pd = (frame_a + 0x200000) | RWU | P_PS;
    invlpg(page + 0x12345);         /* any address in the large page */
    CHECK("invlpg.large-any-address", load(page), 77);
    *pd = saved;
    invlpg(page + 0x1FFFFF);
    CHECK("invlpg.small-again", load(page), WORD_A);
    CHECK("invlpg.non-canonical-is-nop", (invlpg(0x8000000000000000), 1), 1);
    code = CODE("invlpg (%rax)");
    run_with(3, code, page, 0, 0);
    check_fault("invlpg.cpl3", code, V_GP, 0);
}

static void test_cr3(void)
{
    fill_frames();
    map4k(page, frame_a, RWU);
    load(page);
    *entry_at(boot_root, page, L_4K) = frame_b | RWU;
    write_cr3(boot_root);
    CHECK("cr3.same-root-flushes", load(page), WORD_B);
    *entry_at(boot_root, page, L_2M) &= ~P_P;
    write_cr3(boot_root);
    void *code = CODE("mov (%rax), %rcx");
    run_with(0, code, page, 0, 0);
    check_pf("cr3.upper-entry-cleared", code, 0, page);
    *entry_at(boot_root, page, L_2M) |= P_P;

    u64 roots[3];
    for (int i = 0; i < 3; i++) {
        roots[i] = new_root();
        *entry_at(roots[i], page, L_512G) = 0;
        *entry_at(roots[i], page, L_4K) = (frame_a + 0x1000ul * i) | RWU;
    }
    for (int turn = 0; turn < 3; turn++)
        for (int i = 0; i < 3; i++) {
            char name[64];
            write_cr3(roots[i]);
            format_name(name, "cr3.space%d.turn%d", i, turn);
            CHECK(name, load(page + 16), 0x1111111111111111 * (10 + i) + turn);
            store(page + 16, load(page + 16) + 1);
        }
    /* A table changed while its space is not loaded. */
    *entry_at(roots[0], page, L_4K) = frame_c | RWU;
    write_cr3(roots[0]);
    CHECK("cr3.changed-while-away", load(page), 0xCCCCCCCCCCCCCCCC);
    write_cr3(roots[1]);
    CHECK("cr3.others-unchanged", load(page), WORD_B);
    u64 table = *entry_at(roots[2], page, L_2M) & P_ADDR;
    ((u64 *)table)[page >> 12 & 511] = 0;
    write_cr3(roots[2]);
    run_with(0, code, page, 0, 0);
    check_pf("cr3.unmapped-while-away", code, 0, page);
    /* Rights taken away while not loaded. */
    *entry_at(roots[0], page, L_4K) = frame_c | P_P | P_U;
    write_cr3(roots[0]);
    void *write = CODE("mov %rcx, (%rax)");
    run_with(3, write, page, 0, 0);
    check_pf("cr3.read-only-while-away", write, PF_P | PF_U | PF_W, page);
    write_cr3(boot_root);
}

static void test_global(void)
{
    fill_frames();
    CHECK("global.pge-off", read_cr4() & CR4_PGE, 0);
    map4k(page, frame_a, RWU | P_G);
    load(page);
    *entry_at(boot_root, page, L_4K) = frame_b | RWU | P_G;
    write_cr3(boot_root);
    CHECK("global.ignored-without-pge", load(page), WORD_B);

    write_cr4(read_cr4() | CR4_PGE);
    map4k(page, frame_a, RWU | P_G);
    CHECK("global.a", load(page), WORD_A);
    *entry_at(boot_root, page, L_4K) = frame_b | RWU | P_G;
    write_cr3(boot_root);
    u64 got = load(page);
    CHECK("global.cr3-may-keep", got == WORD_A || got == WORD_B, 1);
    invlpg(page);
    CHECK("global.invlpg", load(page), WORD_B);
    *entry_at(boot_root, page, L_4K) = frame_c | RWU | P_G;
    write_cr4(read_cr4() & ~(u64)CR4_PGE);
    CHECK("global.pge-cleared-flushes", load(page), 0xCCCCCCCCCCCCCCCC);
    *entry_at(boot_root, page, L_4K) = frame_a | RWU | P_G;
    write_cr4(read_cr4() | CR4_PGE);
    CHECK("global.pge-set-flushes", load(page), WORD_A);

    /* Not global: gone at the CR3 load even with PGE. */
    map4k(page, frame_a, RWU);
    load(page);
    *entry_at(boot_root, page, L_4K) = frame_b | RWU;
    write_cr3(boot_root);
    CHECK("global.other-pages-flushed", load(page), WORD_B);
    write_cr4(read_cr4() & ~(u64)CR4_PGE);
}

static void test_aliases(void)
{
    u64 other = HIGH_WINDOW + 0x5000;
    fill_frames();
    map4k(page, frame_a, RWU);
    map4k(other, frame_a, RWU);
    for (u64 i = 0; i < 4; i++) {
        store(page + 8 * i, i);
        CHECK("alias.low-to-high", load(other + 8 * i), i);
        store(other + 8 * i, i + 100);
        CHECK("alias.high-to-low", load(page + 8 * i), i + 100);
        CHECK("alias.physical", load(frame_a + 8 * i), i + 100);
    }
    map4k(other, frame_a, P_P | P_U);
    store(page, 4711);
    CHECK("alias.through-read-only", load(other), 4711);
    /* A page table is memory like any other: change it through a mapping of itself. */
    u64 table = *entry_at(boot_root, page, L_2M) & P_ADDR;
    map4k(other, table, P_P | P_W);
    store(other + (page >> 12 & 511) * 8, frame_b | RWU);
    invlpg(page);
    CHECK("alias.table-through-mapping", load(page), WORD_B);
}

/* CR0.WP and EFER.NXE take effect at once. */
static void test_control_bits(void)
{
    void *write = CODE("mov %rcx, (%rax)");
    map4k(page, frame_a, P_P);
    for (int i = 0; i < 2; i++) {
        write_cr0(read_cr0() & ~(u64)CR0_WP);
        run_with(0, write, page, 0, 0);
        check_end("wp.off", write);
        write_cr0(read_cr0() | CR0_WP);
        run_with(0, write, page, 0, 0);
        check_pf("wp.on", write, PF_P | PF_W, page);
    }
    CHECK("wp.dirty", *entry_at(boot_root, page, L_4K) & P_D, P_D);
}

void guest_main(void)
{
    test_accessed_dirty();
    test_large_ad(L_2M, "2m");
    if (cpuid(0x80000001, 0).edx & 1 << 26)
        test_large_ad(L_1G, "1g");
    test_invlpg();
    test_cr3();
    test_global();
    test_aliases();
    test_control_bits();
}
