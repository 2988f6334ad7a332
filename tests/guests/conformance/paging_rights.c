/* Which accesses a page's entries allow, by a model of SDM 3A 4.6 and 4.7 applied to each level of
   the tables, each page size, each privilege and CR0.WP; reserved bits; non-canonical addresses. */
#include "guest.h"

enum access { READ, WRITE, FETCH };
enum { COMBINATIONS = 16 };

static const u64 page = WINDOW + 0x42000000;   /* bits 29:0 are FREE_RAM */
static u64 saved_cr0;

/* Bits of one entry: combination n sets P, W, U by its low bits, NX by bit 3. */
static u64 bits_of(int n)
{
    return (u64)(n & 7) | (n & 8 ? P_NX : 0);
}

/* The #PF error code that `access` must get, or -1 if it is allowed. */
static i64 model(u64 bits, enum access access, int cpl, int wp)
{
    i64 error = (access == WRITE ? PF_W : 0) | (cpl == 3 ? PF_U : 0) | (access == FETCH ? PF_I : 0);
    if (!(bits & P_P))
        return error;
    int allowed = !(cpl == 3 && !(bits & P_U));
    if (access == WRITE && !(bits & P_W) && (cpl == 3 || wp))
        allowed = 0;
    if (access == FETCH && bits & P_NX)
        allowed = 0;
    return allowed ? -1 : error | PF_P;
}

static void rights_check(const char *name, u64 bits)
{
    static const char *const kinds[] = { "read", "write", "fetch" };
    for (int wp = 0; wp < 2; wp++) {
        write_cr0(wp ? saved_cr0 : saved_cr0 & ~(u64)CR0_WP);
        for (int i = 0; i < 6; i++) {
            enum access access = i % 3;
            int cpl = i < 3 ? 0 : 3;
            void *code = access == READ ? CODE("mov (%rax), %ecx")
                : access == WRITE ? CODE("mov %ecx, 16(%rax)") : (void *)page;
            u64 address = page + (access == WRITE ? 16 : 0);
            i64 want = model(bits, access, cpl, wp);
            u64 rip = want >= 0 ? (u64)code : access == FETCH ? page + 2 : code_end(code) + 2;
            run_with(cpl, code, page, 0, 0);
            if (trap.vector == (want < 0 ? V_END : V_PF) && trap.c.rip == rip
                && (want < 0 || (trap.error == (u64)want && trap.cr2 == address)))
                continue;
            check_failed(name, "got %s at cpl %d wp %d: vector %lu error 0x%lx rip 0x%lx cr2 0x%lx "
                         "want error 0x%lx rip 0x%lx cr2 0x%lx", kinds[access], cpl, wp,
                         trap.vector, trap.error, trap.c.rip, trap.cr2, want, rip, address);
            write_cr0(saved_cr0);
            return;
        }
    }
    write_cr0(saved_cr0);
    check_ok(name);
}

static void put_code(u64 physical)
{
    *(u16 *)physical = 0x81CD;      /* int $0x81 */
}

static void test_levels(void)
{
    put_code(FREE_RAM);
    for (int level = L_4K; level <= L_512G; level++)
        for (int n = 0; n < COMBINATIONS; n++) {
            char name[64];
            map4k(page, FREE_RAM, P_P | P_W | P_U);
            u64 *entry = entry_at(boot_root, page, level);
            u64 saved = *entry;
            *entry = (saved & ~(P_P | P_W | P_U | P_NX)) | bits_of(n);
            invlpg(page);
            format_name(name, "rights.4k.level%d.%s%s%s%s", level, n & 1 ? "p" : "-",
                        n & 2 ? "w" : "-", n & 4 ? "u" : "-", n & 8 ? "n" : "-");
            rights_check(name, bits_of(n));
            *entry = saved;
            invlpg(page);
        }
}

static void test_large(int level, const char *size)
{
    u64 *entry = entry_at(boot_root, page, level);
    u64 saved = *entry;
    u64 physical = level == L_1G ? 0 : FREE_RAM;
    put_code(physical + (page & ((1ul << (12 + 9 * (level - 1))) - 1)));
    for (int n = 0; n < COMBINATIONS; n++) {
        char name[64];
        *entry = physical | P_PS | bits_of(n);
        invlpg(page);
        format_name(name, "rights.%s.%s%s%s%s", size, n & 1 ? "p" : "-", n & 2 ? "w" : "-",
                    n & 4 ? "u" : "-", n & 8 ? "n" : "-");
        rights_check(name, bits_of(n));
    }
    *entry = saved;
    invlpg(page);
}

/* Two levels together: the rights are those that both give. */
static void test_combined(void)
{
    u64 *upper = entry_at(boot_root, page, L_2M), saved = *upper;
    for (int n = 0; n < COMBINATIONS; n++) {
        char name[64];
        u64 other = bits_of(n * 7 & 15) | P_P;
        map4k(page, FREE_RAM, bits_of(n) | P_P);
        *upper = (saved & ~(P_W | P_U | P_NX)) | other;
        invlpg(page);
        u64 both = (bits_of(n) & other & (P_W | P_U)) | ((bits_of(n) | other) & P_NX) | P_P;
        format_name(name, "rights.combined.%d", n);
        rights_check(name, both);
    }
    *upper = saved;
    invlpg(page);
}

static void reserved_check(const char *name, int level, u64 bit, int cpl)
{
    void *code = CODE("mov %ecx, (%rax)");
    u64 *entry = entry_at(boot_root, page, level), saved = *entry;
    *entry |= bit;
    invlpg(page);
    run_with(cpl, code, page, 0, 0);
    check_pf(at(name, cpl), code, PF_P | PF_RSVD | PF_W | (cpl ? PF_U : 0), page);
    *entry = saved;
    invlpg(page);
}

static void test_reserved(void)
{
    u32 width = cpuid(0x80000008, 0).eax & 0xFF;
    EACH_CPL(cpl) {
        map4k(page, FREE_RAM, P_P | P_W | P_U);
        for (int level = L_4K; level <= L_512G; level++) {
            char name[64];
            format_name(name, "reserved.bit51.level%d", level);
            if (width < 52)
                reserved_check(name, level, 1ul << 51, cpl);
            format_name(name, "reserved.maxphyaddr.level%d", level);
            if (width < 52)
                reserved_check(name, level, 1ul << width, cpl);
        }
        reserved_check("reserved.ps.level4", L_512G, P_PS, cpl);
        u64 *pd = entry_at(boot_root, page, L_2M), saved = *pd;
        *pd = FREE_RAM | P_P | P_W | P_U | P_PS;
        reserved_check("reserved.2m.bit13", L_2M, 1 << 13, cpl);
        reserved_check("reserved.2m.bit20", L_2M, 1 << 20, cpl);
        *pd = saved;
        u64 *pdpt = entry_at(boot_root, page, L_1G);
        saved = *pdpt;
        *pdpt = P_P | P_W | P_U | P_PS;
        reserved_check("reserved.1g.bit13", L_1G, 1 << 13, cpl);
        reserved_check("reserved.1g.bit29", L_1G, 1 << 29, cpl);
        *pdpt = saved;
        write_msr(MSR_EFER, read_msr(MSR_EFER) & ~(u64)EFER_NXE);
        reserved_check("reserved.nx-without-nxe", L_4K, P_NX, cpl);
        /* Without NXE a fetch is not told from a read. */
        map4k(page, FREE_RAM, P_W | P_U);
        run_code(cpl, (void *)page);
        check_trap_at(at("fetch-without-nxe", cpl), page, V_PF, cpl ? PF_U : 0);
        write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
    }
}

/* A bit that the manual calls ignored has no effect. */
static void test_ignored(void)
{
    map4k(page, FREE_RAM, P_P | P_W | P_U);
    *(u64 *)FREE_RAM = 0x81CD;
    for (int level = L_4K; level <= L_512G; level++) {
        u64 *entry = entry_at(boot_root, page, level), saved = *entry;
        *entry |= 0x7FF0000000000E00 | P_PWT;
        invlpg(page);
        char name[64];
        format_name(name, "ignored.level%d", level);
        rights_check(name, P_P | P_W | P_U);
        *entry = saved;
    }
    invlpg(page);
}

static void test_non_canonical(void)
{
    static const u64 addresses[] = {
        0x0000800000000000, 0xFFFF7FFFFFFFFFFF, 0x8000000000000000, 0x7FFFFFFFFFFFFFFF,
        0x0100000000000000, 0xFEFFFFFFFFFFFFF8, 0xAAAAAAAAAAAAAAAA, 0x0001000000200000
    };
    void *codes[] = {
        CODE("mov (%rax), %rcx"), CODE("mov %rcx, (%rax)"), CODE("lock incq (%rax)"),
        CODE("call *(%rax)"), CODE("push (%rax)"), CODE("movups (%rax), %xmm0"),
    };
    void *stack[] = {
        CODE("mov %rax, %rsp;" MARK "push %rcx"), CODE("mov %rax, %rsp;" MARK "pop %rcx"),
        CODE("mov %rax, %rsp;" MARK "ret"), CODE("mov %rax, %rbp;" MARK "mov (%rbp), %rcx"),
        CODE("mov %rax, %rsp;" MARK "mov %rcx, (%rsp)"), CODE("mov %rax, %rbp;" MARK "leave"),
        CODE("mov %rax, %rsp;" MARK "call 1f; 1:"),
    };
    EACH_CPL(cpl)
        for (int a = 0; a < 8; a++) {
            char name[64];
            u64 address = addresses[a];
            for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
                format_name(name, "non-canonical.%lx.%lu", address, i);
                run_with(cpl, codes[i], address, 0, 0);
                check_fault(at(name, cpl), codes[i], V_GP, 0);
            }
            for (u64 i = 0; i < sizeof stack / sizeof *stack; i++) {
                format_name(name, "non-canonical-stack.%lx.%lu", address, i);
                run_with(cpl, stack[i], i == 0 || i == 6 ? address + 8 : address, 0, 0);
                check_fault(at(name, cpl), stack[i], V_SS, 0);
            }
        }
    /* DS and SS overrides are ignored in 64-bit mode. */
    void *ds = CODE("mov %rax, %rbp;" MARK "mov %ds:(%rbp), %rcx"), *ss = CODE("mov %ss:(%rax), %rcx");
    run_with(0, ds, addresses[0], 0, 0);
    check_fault("non-canonical-stack.ds-override", ds, V_SS, 0);
    run_with(0, ss, addresses[0], 0, 0);
    check_fault("non-canonical.ss-override", ss, V_GP, 0);
    /* FS adds its base first, and makes a stack-based operand an ordinary one. */
    write_msr(MSR_FS_BASE, 0x7FFFFFFFF000);
    void *code = CODE("mov %fs:0x1000(%rax), %rcx");
    run_code(0, code);
    check_fault("non-canonical.fs-sum", code, V_GP, 0);
    code = CODE("mov %rax, %rbp;" MARK "mov %fs:0x1000(%rbp), %rcx");
    run_code(0, code);
    check_fault("non-canonical.fs-rbp", code, V_GP, 0);
    write_msr(MSR_FS_BASE, 0);
}

static void test_boundary(void)
{
    u64 last = 0x00007FFFFFFFF000;
    void *load = CODE("mov (%rax), %rcx"), *store = CODE("mov %rcx, (%rax)");
    map4k(last, FREE_RAM, P_P | P_W | P_U);
    EACH_CPL(cpl) {
        run_with(cpl, load, last + 0xFF8, 0, 0);
        check_end(at("canonical-edge.last-word", cpl), load);
        run_with(cpl, load, last + 0xFF9, 0, 0);
        check_fault(at("canonical-edge.straddle-load", cpl), load, V_GP, 0);
        *(u64 *)(FREE_RAM + 0xFF8) = 0x1122334455667788;
        run_with(cpl, store, last + 0xFFC, 0, 0);
        check_fault(at("canonical-edge.straddle-store", cpl), store, V_GP, 0);
        CHECK(at("canonical-edge.nothing-written", cpl), *(u64 *)(FREE_RAM + 0xFF8),
              0x1122334455667788);
    }
}

void guest_main(void)
{
    saved_cr0 = read_cr0();
    map4k(page, FREE_RAM, P_P | P_W | P_U);
    test_levels();
    test_large(L_2M, "2m");
    if (cpuid(0x80000001, 0).edx & 1 << 26)
        test_large(L_1G, "1g");
    test_combined();
    test_reserved();
    test_ignored();
    test_non_canonical();
    test_boundary();
}
