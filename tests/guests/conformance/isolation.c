/* Ring 3 (and ring 0) at wild addresses of every kind: each access must reach exactly the page it
   names, or raise exactly the exception that the address asks for, and touch nothing else. A model of
   the few pages that exist says which. */
#include "guest.h"
#include "operand.h"

struct page {
    u64 linear, frame;
    u64 bits;
};

/* Far apart, at the edges of the canonical halves and of large powers of two. */
static const struct page pages[] = {
    { 0x0000000100000000, FREE_RAM + 0x0000, 7 }, { 0x0000001000000000, FREE_RAM + 0x1000, 7 },
    { 0x0000001000001000, FREE_RAM + 0x2000, 5 }, { 0x0000001FFFFFF000, FREE_RAM + 0x3000, 7 },
    { 0x0000002000000000, FREE_RAM + 0x4000, 7 }, { 0x0000008000000000, FREE_RAM + 0x5000, 3 },
    { 0x00007FFFFFFFF000, FREE_RAM + 0x6000, 7 }, { 0xFFFF800000000000, FREE_RAM + 0x7000, 7 },
    { 0xFFFF800000001000, FREE_RAM + 0x8000, 3 }, { 0xFFFFC00000000000, FREE_RAM + 0x9000, 3 },
    { 0xFFFFFFFF80000000, FREE_RAM + 0xA000, 7 }, { 0xFFFFFFFFFFFFE000, FREE_RAM + 0xB000, 7 },
    { 0x0000555555555000, FREE_RAM + 0xC000, 7 }, { 0x0000000180000000, FREE_RAM + 0xD000, 7 },
};
enum { PAGES = sizeof pages / sizeof *pages, ROUNDS = 1500 };

static u64 random_state;
static int tcg;
static u32 reached, faulted;    /* how the random accesses came out: both must be many */

static u64 random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static int is_canonical(u64 a)
{
    return (u64)((i64)(a << 16) >> 16) == a;
}

struct outcome {
    u64 vector, error, cr2;
    u64 physical;               /* of the first byte, if there is no fault */
};

static const struct page *page_of(u64 linear)
{
    for (int i = 0; i < PAGES; i++)
        if (pages[i].linear == (linear & ~0xFFFul))
            return &pages[i];
    return 0;
}

/* What an access of `size` bytes comes to; the identity map below 4 GiB is left out by the caller. */
static struct outcome model(u64 linear, int size, int write, int cpl, int stack)
{
    struct outcome o = { .vector = V_END };
    u64 last = linear + (u64)size - 1;
    if (!is_canonical(linear) || !is_canonical(last)) {
        o.vector = stack ? V_SS : V_GP;
        return o;
    }
    for (u64 a = linear;; a = last & ~0xFFFul) {
        const struct page *p = page_of(a);
        u64 bits = p ? p->bits : 0;
        if (!(bits & P_P) || (cpl && !(bits & P_U)) || (write && !(bits & P_W))) {
            o.vector = V_PF;
            o.error = (bits & P_P ? PF_P : 0) | (write ? PF_W : 0) | (cpl ? PF_U : 0);
            o.cr2 = a;
            return o;
        }
        if (a == linear)
            o.physical = p->frame + (a & 0xFFF);
        if ((a & ~0xFFFul) == (last & ~0xFFFul))
            return o;
    }
}

static void fill_frames(void)
{
    for (u64 i = 0; i < PAGES * 0x1000; i += 8)
        *(u64 *)(FREE_RAM + i) = i * 0x9E3779B97F4A7C15;
}

/* An address near something of interest. */
static u64 interesting(void)
{
    static const i64 near[] = { 0, -1, -2, -4, -7, -8, -9, 1, 8, 0xFF8, 0xFFC, 0xFFF, 0x1000, -0x1000,
                                0x7F000000, -0x7F000000, 0x3FFFFFFFF8 };
    u64 r = random();
    u64 base = pages[r % PAGES].linear;
    switch (r >> 16 & 15) {
    case 0: return random();
    case 1: return random() >> 16;
    case 2: return random() | 0xFFFF000000000000;
    case 3: return 1ul << (r >> 32 & 63);
    case 4: return -(1ul << (r >> 32 & 63));
    case 5: return base ^ 1ul << (r >> 32 & 63);        /* one wrong bit, high ones included */
    case 6: return base + (random() & 0xFFF);
    default: return base + (u64)near[(r >> 32) % 17];
    }
}

/* One random access; 0 if it did as the model says. */
static int wild(int cpl, int stack, const char *name)
{
    static const int sizes[] = { 1, 2, 4, 8 };
    static const u8 plain[] = { RAX, RCX, RDX, RBX, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
    u64 r = random();
    struct operand o = { plain[r % 14], -1, 0, 0, 0 };
    if (stack)
        o.base = r & 1 << 20 ? RSP : RBP;
    if (r & 1 << 21) {
        o.index = plain[(r >> 8) % 14];
        o.scale = (int)(r >> 12 & 3);
    }
    switch (r >> 14 & 7) {
    case 0: o.displacement = (i32)random(); break;
    case 1: o.displacement = (i8)random(); break;
    case 2: o.displacement = (i32)0x80000000; break;
    case 3: o.displacement = 0x7FFFFFFF; break;
    }
    if ((r >> 17 & 7) == 7)
        o.prefix = r & 1 << 22 ? 0x64 : 0x65;
    enum kind kind = (enum kind)((r >> 24) % 3);
    int size = sizes[r >> 26 & 3], reg = plain[(r >> 28) % 14];
    struct cpu c = at_cpl(cpl, operand_code(&o, kind, size, reg));
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            c.r[i] = random() >> (random() & 63);
    if (o.index >= 0 && r & 1ul << 40)
        c.r[o.index] = (u64)-(i64)(c.r[o.index] >> 32);
    if (o.prefix == 0x64)
        write_msr(MSR_FS_BASE, (u64)((i64)(random() << 16) >> 16));
    if (o.prefix == 0x65)
        write_msr(MSR_GS_BASE, (u64)((i64)(random() << 16) >> 16));
    /* Choose the base so that the sum is an interesting address, or leave it as it is. */
    if (r & 1ul << 41 && o.base != o.index)
        c.r[o.base] += interesting() - operand_address(&o, &c);
    u64 linear = operand_address(&o, &c);
    if (linear < 0x100000008 || linear > ~0ul - 16)
        return 0;                               /* the identity map, and the wrap */
    struct outcome want = model(linear, size, kind != LOAD, cpl, stack && !o.prefix);
    u64 before = 0, mask = size == 8 ? ~0ul : (1ul << 8 * size) - 1, memory = 0;
    struct cpu registers = c;
    int straddles = (linear & 0xFFF) + (u64)size > 0x1000;
    if (tcg && kind == ADD && straddles)
        return 0;                               /* QEMU reads both pages first */
    if (want.vector == V_END && !straddles) {
        memcpy(&before, (void *)want.physical, (u64)size);
        memory = kind == LOAD ? before : kind == STORE ? c.r[reg] & mask : (before + c.r[reg]) & mask;
        if (kind == LOAD)
            registers.r[reg] = size == 4 ? before : (c.r[reg] & ~mask) | before;
    }
    run(&c);
    if (tcg && kind == ADD && want.vector == V_PF)
        trap.error |= PF_W;                     /* QEMU reads first */
    if (tcg && want.vector == V_SS)
        want.vector = V_GP;                     /* QEMU knows no other */
    int bad = trap.vector != want.vector;
    if (want.vector != V_END)
        bad |= trap.c.rip != c.rip || trap.error != want.error;
    if (want.vector == V_PF)
        bad |= trap.cr2 != want.cr2;
    if (!straddles || want.vector != V_END)
        for (int i = 0; i < 16; i++)
            bad |= trap.c.r[i] != registers.r[i];
    if (want.vector == V_END && !straddles)
        bad |= memcmp(&memory, (void *)want.physical, (u64)size) != 0;
    if (want.vector == V_END)
        reached++;
    else
        faulted++;
    if (bad)
        check_failed(name, "got vector %lu error 0x%lx cr2 0x%lx want vector %lu error 0x%lx cr2 0x%lx "
                     "at 0x%lx kind %d size %d base %d=0x%lx index %d scale %d disp %d prefix %x reg %d",
                     trap.vector, trap.error, trap.cr2, want.vector, want.error, want.cr2, linear,
                     kind, size, o.base, c.r[o.base], o.index, o.scale, o.displacement,
                     (u32)o.prefix, reg);
    return bad;
}

static void test_wild(int stack)
{
    EACH_CPL(cpl) {
        char name[64];
        format_name(name, "wild.%s.cpl%d", stack ? "stack" : "data", cpl);
        random_state = 0x123456789ABCDEF;
        fill_frames();
        int bad = 0;
        for (int i = 0; i < ROUNDS && !bad; i++)
            bad = wild(cpl, stack, name);
        if (!bad)
            check_ok(name);
    }
    CHECK("wild.many-reach-a-page", reached > 200, 1);
    CHECK("wild.many-fault", faulted > 1000, 1);
    write_msr(MSR_FS_BASE, 0);
    write_msr(MSR_GS_BASE, 0);
}

/* Other kinds of access at chosen wild addresses. */
static void test_kinds(void)
{
    struct { const char *name; void *code; int write, size; } const kinds[] = {
        { "movups", CODE("movups (%rax), %xmm0"), 0, 16 },
        { "movups-store", CODE("movups %xmm0, (%rax)"), 1, 16 },
        { "fld", CODE("fldl (%rax)"), 0, 8 }, { "fst", CODE("fstl (%rax)"), 1, 8 },
        { "lods", CODE("mov %rax, %rsi;" MARK "lodsb"), 0, 1 },
        { "stos", CODE("mov %rax, %rdi;" MARK "stosb"), 1, 1 },
        { "rep-stos", CODE("mov %rax, %rdi; mov $1, %ecx;" MARK "rep stosb"), 1, 1 },
        { "movs-to", CODE("mov %rax, %rdi; mov %rdx, %rsi;" MARK "movsb"), 1, 1 },
        { "scas", CODE("mov %rax, %rdi;" MARK "scasl"), 0, 4 },
        { "xlat", CODE("mov %rax, %rbx; xor %eax, %eax;" MARK "xlatb"), 0, 1 },
        { "bts", CODE("xor %ecx, %ecx;" MARK "lock bts %rcx, (%rax)"), 1, 8 },
        { "xchg", CODE("xchg %cl, (%rax)"), 1, 1 }, { "cmpxchg8b", CODE("mov %rax, %rsi; lea (%rsi), %rdi;"
          MARK "lock cmpxchg8b (%rdi)"), 1, 8 },
        { "push-mem", CODE("push (%rax)"), 0, 8 }, { "pop-mem", CODE("push %rcx;" MARK "pop (%rax)"), 1, 8 },
        { "call-mem", CODE("call *(%rax)"), 0, 8 }, { "jmp-mem", CODE("jmp *(%rax)"), 0, 8 },
        { "sgdt", CODE("sgdt (%rax)"), 1, 10 }, { "smsw", CODE("smsw (%rax)"), 1, 2 },
        { "mov-seg", CODE("mov %cs, (%rax)"), 1, 2 }, { "verr", CODE("verr (%rax)"), 0, 2 },
        { "fxsave", CODE("mov %rax, %rbx; and $-16, %rbx;" MARK "fxsave (%rbx)"), 1, 8 },
        { "stmxcsr", CODE("stmxcsr (%rax)"), 1, 4 }, { "cmov", CODE("cmove (%rax), %ecx"), 0, 4 },
    };
    static const u64 addresses[] = {
        0x0000800000000000, 0xFFFF7FFFFFFFFFF0, 0x8000000000000000, 0x7FFFFFFFFFFFFFF0,
        0x5555555555555550, 0xFFFF900000000000, 0xFFFFC00000000010, 0x0000008000000010,
        0x0000700000000000, 0x0000001000002000, 0xFFFFFFFF7FFFF000, 0x00007F0000000000
    };
    EACH_CPL(cpl)
        for (u64 k = 0; k < sizeof kinds / sizeof *kinds; k++)
            for (u64 a = 0; a < sizeof addresses / sizeof *addresses; a++) {
                struct outcome want = model(addresses[a], kinds[k].size, kinds[k].write, cpl, 0);
                char name[64];
                if (want.vector == V_END)
                    continue;           /* a supervisor page at CPL 0 */
                run_with(cpl, kinds[k].code, addresses[a], 0, (u64)user_stack);
                format_name(name, "kind.%s.%lx", kinds[k].name, addresses[a]);
                if (want.vector == V_PF)
                    check_pf(at(name, cpl), kinds[k].code, want.error, want.cr2);
                else
                    check_fault(at(name, cpl), kinds[k].code, want.vector, 0);
            }
}

/* Pointers that move without touching memory, then touch it once: no bound may be assumed from the
   last access. */
static void test_marches(void)
{
    u64 start = 0x0000555555555000;     /* a page with nothing for 64 GiB on either side */
    struct { const char *name; void *code; i64 step; u64 count; int stack; } const marches[] = {
        { "add", CODE("mov (%rax), %rdx; 1: add %rbx, %rax; dec %ecx; jnz 1b;" MARK "mov %rdx, (%rax)"),
          0x10000, 3000000, 0 },
        { "lea", CODE("mov (%rax), %rdx; 1: lea (%rax,%rbx), %rax; dec %ecx; jnz 1b;"
                      MARK "mov %rdx, (%rax)"), 0x7FFFFFFF, 100, 0 },
        { "sub", CODE("mov (%rax), %rdx; 1: sub $0x7FFFFFF0, %rax; dec %ecx; jnz 1b;"
                      MARK "mov %rdx, (%rax)"), -0x7FFFFFF0l, 1000, 0 },
        { "rsp-sub", CODE("mov %rax, %rsp; mov (%rsp), %rdx; 1: sub $0x10000000, %rsp; dec %ecx; jnz 1b;"
                          MARK "push %rdx"), -0x10000000l, 600, 1 },
        { "rsp-add", CODE("mov %rax, %rsp; mov (%rsp), %rdx; 1: add $0x10000000, %rsp; dec %ecx; jnz 1b;"
                          MARK "mov (%rsp), %rdx"), 0x10000000, 600, 0 },
        { "rsp-lea", CODE("mov %rax, %rsp; mov (%rsp), %rdx; 1: lea -0x70000000(%rsp), %rsp; dec %ecx;"
                          "jnz 1b;" MARK "call 2f; 2:"), -0x70000000l, 200, 1 },
        { "string", CODE("mov %rax, %rsi; lodsb; lea -1(%rsi), %rsi; 1: add %rbx, %rsi; dec %ecx; jnz 1b;"
                         MARK "lodsb"), 0x40000000, 300, 0 },
    };
    EACH_CPL(cpl)
        for (u64 i = 0; i < sizeof marches / sizeof *marches; i++) {
            struct cpu c = at_cpl(cpl, marches[i].code);
            c.r[RAX] = start + 0x800;
            c.r[RBX] = (u64)marches[i].step;
            c.r[RCX] = marches[i].count;
            run(&c);
            u64 end = start + 0x800 + (u64)marches[i].step * marches[i].count
                - (marches[i].stack ? 8 : 0);
            char name[64];
            format_name(name, "march.%s", marches[i].name);
            u64 write = marches[i].stack || trap.error & PF_W ? PF_W : 0;
            check_pf(at(name, cpl), marches[i].code, write | (cpl ? PF_U : 0), end);
        }
    /* Step by step through a page to its very edge, one store each. */
    void *walk = CODE("1:" MARK "mov %cl, (%rax); add $8, %rax; jmp 1b");
    void *pushes = CODE("mov %rax, %rsp; 1:" MARK "push %rcx; jmp 1b");
    void *calls = CODE("mov %rax, %rsp; 1:" MARK "call 1b");
    EACH_CPL(cpl) {
        u64 user = cpl ? PF_U : 0;
        run_with(cpl, walk, start, 0, 0);
        check_pf(at("march.walk", cpl), walk, PF_W | user, start + 0x1000);
        run_with(cpl, pushes, start + 0x1000, 0, 0);
        check_pf(at("march.pushes", cpl), pushes, PF_W | user, start - 8);
        CHECK(at("march.pushes.rsp", cpl), trap.c.r[RSP], start);
        run_with(cpl, calls, start + 0x1000, 0, 0);
        check_pf(at("march.calls", cpl), calls, PF_W | user, start - 8);
        CHECK(at("march.calls.rsp", cpl), trap.c.r[RSP], start);
    }
}

/* Code at wild addresses. */
static void test_fetches(void)
{
    static const u64 addresses[] = {
        0x200000, 0x0000700000000000, 0xFFFF900000000000, 0xFFFFC00000000000, 0x0000008000000000, 0x10
    };
    void *jump = CODE("jmp *%rax"), *ret = CODE("push %rax; ret");
    for (int i = 0; i < 6; i++) {
        u64 a = addresses[i];
        const struct page *p = page_of(a);
        u64 error = PF_I | PF_U | ((p && !(p->bits & P_U)) || a < 1ul << 32 ? PF_P : 0);
        char name[64];
        format_name(name, "fetch.%lx", a);
        run_with(3, jump, a, 0, 0);
        check_trap_at(with(name, "jmp"), a, V_PF, error);
        CHECK(with(name, "cr2"), trap.cr2, a);
        run_with(3, ret, a, 0, 0);
        check_trap_at(with(name, "ret"), a, V_PF, error);
    }
}

void guest_main(void)
{
    tcg = under_tcg();
    for (int i = 0; i < PAGES; i++)
        map4k(pages[i].linear, pages[i].frame, pages[i].bits);
    fill_frames();
    u64 canary = FREE_RAM + 0x100000;
    for (u64 i = 0; i < 0x10000; i += 8)
        *(u64 *)(canary + i) = ~i;
    test_wild(0);
    test_wild(1);
    test_kinds();
    test_marches();
    test_fetches();
    u64 changed = 0;
    for (u64 i = 0; i < 0x10000; i += 8)
        changed += *(u64 *)(canary + i) != ~i;
    CHECK("canary", changed, 0);
}
