/* String instructions: every size, both directions, REP counts, overlap, pages, and the exact
   registers after a fault in the middle (SDM 2A, REP). */
#include "guest.h"

enum { MID = 512 };
static u8 from[1024] UDATA, to[1024] UDATA;
static u64 expected[256];       /* a model of `to` */

static void fill(void)
{
    for (u32 i = 0; i < sizeof from; i++) {
        from[i] = (u8)(i * 31 + (i >> 3));
        to[i] = (u8)(i * 17 + 5);
    }
}

static struct cpu run_string(int cpl, void *code, u64 flags, u64 rcx, u64 rsi, u64 rdi, u64 rax)
{
    struct cpu c = at_cpl(cpl, code);
    c.rflags |= flags;
    c.r[RCX] = rcx;
    c.r[RSI] = rsi;
    c.r[RDI] = rdi;
    c.r[RAX] = rax;
    run(&c);
    return trap.c;
}

static void *movs(int size)
{
    return size == 1 ? CODE("rep movsb") : size == 2 ? CODE("rep movsw")
        : size == 4 ? CODE("rep movsl") : CODE("rep movsq");
}

static void *stos(int size)
{
    return size == 1 ? CODE("rep stosb") : size == 2 ? CODE("rep stosw")
        : size == 4 ? CODE("rep stosl") : CODE("rep stosq");
}

static void *lods(int size)
{
    return size == 1 ? CODE("rep lodsb") : size == 2 ? CODE("rep lodsw")
        : size == 4 ? CODE("rep lodsl") : CODE("rep lodsq");
}

static void *scas(int size, int while_equal)
{
    if (while_equal)
        return size == 1 ? CODE("repe scasb") : size == 2 ? CODE("repe scasw")
            : size == 4 ? CODE("repe scasl") : CODE("repe scasq");
    return size == 1 ? CODE("repne scasb") : size == 2 ? CODE("repne scasw")
        : size == 4 ? CODE("repne scasl") : CODE("repne scasq");
}

static void *cmps(int size)
{
    return size == 1 ? CODE("repe cmpsb") : size == 2 ? CODE("repe cmpsw")
        : size == 4 ? CODE("repe cmpsl") : CODE("repe cmpsq");
}

/* What `count` moves (or stores of rax) would leave, one element after the other. */
static void model_move(int size, i64 step, u64 count, const u8 *source, u8 *target, u64 rax, int store)
{
    for (u64 n = 0; n < count; n++) {
        u64 value = rax;
        if (!store)
            memcpy(&value, source, (u64)size);
        memcpy(target, &value, (u64)size);
        source += step;
        target += step;
    }
}

static void end_check(const char *name, const struct cpu *c, u64 rcx, u64 rsi, u64 rdi, u64 flags)
{
    flags |= F_1;
    if (trap.vector == V_END && c->r[RCX] == rcx && c->r[RSI] == rsi && c->r[RDI] == rdi
        && c->rflags == flags)
        check_ok(name);
    else
        check_failed(name, "got vector %lu rcx 0x%lx rsi 0x%lx rdi 0x%lx rflags 0x%lx want the end, "
                     "rcx 0x%lx rsi 0x%lx rdi 0x%lx rflags 0x%lx", trap.vector, c->r[RCX],
                     c->r[RSI], c->r[RDI], c->rflags, rcx, rsi, rdi, flags);
}

static void test_moves(int cpl, int size, int down)
{
    static const u64 counts[] = { 0, 1, 2, 13, 40 };
    static const i64 overlaps[] = { 0, 1, -1, 3, 8, -8, 100 };
    u64 flags = F_CF | F_ZF | (down ? F_DF : 0);
    i64 step = down ? -size : size;
    u64 rax = 0x8877665544332211;
    char name[64];
    for (int i = 0; i < 5; i++) {
        u64 n = counts[i];
        i64 moved = step * (i64)n;
        format_name(name, "movs%d.%s.count%lu.cpl%d", size, down ? "down" : "up", n, cpl);
        fill();
        memcpy(expected, to, sizeof to);
        model_move(size, step, n, from + MID, (u8 *)expected + MID, 0, 0);
        struct cpu c = run_string(cpl, movs(size), flags, n, (u64)from + MID, (u64)to + MID, 0);
        end_check(name, &c, 0, (u64)from + MID + (u64)moved, (u64)to + MID + (u64)moved, flags);
        CHECK(with(name, "memory"), memcmp(expected, to, sizeof to), 0);

        format_name(name, "stos%d.%s.count%lu.cpl%d", size, down ? "down" : "up", n, cpl);
        fill();
        memcpy(expected, to, sizeof to);
        model_move(size, step, n, from, (u8 *)expected + MID + 3, rax, 1);
        c = run_string(cpl, stos(size), flags, n, 0x77, (u64)to + MID + 3, rax);
        end_check(name, &c, 0, 0x77, (u64)to + MID + 3 + (u64)moved, flags);
        CHECK(with(name, "memory"), memcmp(expected, to, sizeof to), 0);
        CHECK(with(name, "rax"), c.r[RAX], rax);

        format_name(name, "lods%d.%s.count%lu.cpl%d", size, down ? "down" : "up", n, cpl);
        u64 last = rax;
        if (n)
            memcpy(&last, from + MID + (i64)(n - 1) * step, (u64)size);
        if (n && size == 4)
            last &= 0xFFFFFFFF;
        c = run_string(cpl, lods(size), flags, n, (u64)from + MID, 0x55, rax);
        end_check(name, &c, 0, (u64)from + MID + (u64)moved, 0x55, flags);
        CHECK(with(name, "rax"), c.r[RAX], last);
    }
    for (int i = 0; i < 7; i++) {
        format_name(name, "movs%d.%s.overlap%ld.cpl%d", size, down ? "down" : "up", overlaps[i], cpl);
        fill();
        memcpy(expected, to, sizeof to);
        model_move(size, step, 30, (u8 *)expected + MID, (u8 *)expected + MID + overlaps[i], 0, 0);
        run_string(cpl, movs(size), flags, 30, (u64)to + MID, (u64)to + MID + (u64)overlaps[i], 0);
        CHECK(name, memcmp(expected, to, sizeof to), 0);
    }
}

/* SCAS and CMPS stop where they should, with the flags of the last comparison. */
static void test_compares(int cpl, int size, int down)
{
    i64 step = down ? -size : size;
    u64 flags = down ? F_DF : 0, result;
    char name[64];
    for (u64 stop = 0; stop < 6; stop++) {
        memset(to, 0x11, sizeof to);
        memset(from, 0x11, sizeof from);
        to[MID + (i64)stop * step] = 0x12;
        i64 moved = step * (i64)(stop + 1);
        u64 rax = 0x1111111111111111;
        format_name(name, "repe-scas%d.%s.stop%lu.cpl%d", size, down ? "down" : "up", stop, cpl);
        struct cpu c = run_string(cpl, scas(size, 1), flags, 20, 9, (u64)to + MID, rax);
        result = F_CF | F_SF | F_AF | F_PF; /* 11h - 12h */
        end_check(name, &c, 19 - stop, 9, (u64)to + MID + (u64)moved, flags | result);
        format_name(name, "repe-cmps%d.%s.stop%lu.cpl%d", size, down ? "down" : "up", stop, cpl);
        c = run_string(cpl, cmps(size), flags, 20, (u64)from + MID, (u64)to + MID, 7);
        end_check(name, &c, 19 - stop, (u64)from + MID + (u64)moved, (u64)to + MID + (u64)moved,
                  flags | result);
        format_name(name, "repne-scas%d.%s.stop%lu.cpl%d", size, down ? "down" : "up", stop, cpl);
        memset(to, 0x33, sizeof to);
        memset(to + MID + (i64)stop * step, 0x11, (u64)size);
        c = run_string(cpl, scas(size, 0), flags, 20, 9, (u64)to + MID, rax);
        end_check(name, &c, 19 - stop, 9, (u64)to + MID + (u64)moved, flags | F_ZF | F_PF);
    }
    memset(to, 0x11, sizeof to);
    memset(from, 0x11, sizeof from);
    format_name(name, "repe-scas%d.%s.all.cpl%d", size, down ? "down" : "up", cpl);
    struct cpu c = run_string(cpl, scas(size, 1), flags, 10, 9, (u64)to + MID, 0x1111111111111111);
    end_check(name, &c, 0, 9, (u64)to + MID + (u64)(step * 10), flags | F_ZF | F_PF);
    format_name(name, "repe-scas%d.%s.zero-count.cpl%d", size, down ? "down" : "up", cpl);
    c = run_string(cpl, scas(size, 1), flags | F_CF | F_OF, 0, 9, (u64)to + MID, 0);
    end_check(name, &c, 0, 9, (u64)to + MID, flags | F_CF | F_OF);
    format_name(name, "repe-cmps%d.%s.zero-count.cpl%d", size, down ? "down" : "up", cpl);
    c = run_string(cpl, cmps(size), flags | F_CF | F_SF, 0, 0x8000000000000000, 1ul << 63, 0);
    end_check(name, &c, 0, 1ul << 63, 1ul << 63, flags | F_CF | F_SF);
}

/* Without REP, RCX does not matter; REPNE before MOVS and STOS is REP. */
static void test_single(int cpl)
{
    fill();
    struct cpu c = run_string(cpl, CODE("movsl"), 0, 77, (u64)from, (u64)to, 0);
    end_check(at("movs.single", cpl), &c, 77, (u64)from + 4, (u64)to + 4, 0);
    CHECK(at("movs.single.value", cpl), *(u32 *)to, *(u32 *)from);
    c = run_string(cpl, CODE("stosb"), F_DF, 0, 0, (u64)to + 9, 0xAB);
    end_check(at("stos.single", cpl), &c, 0, 0, (u64)to + 8, F_DF);
    CHECK(at("stos.single.value", cpl), to[9], 0xAB);
    c = run_string(cpl, CODE("cmpsw"), 0, 0, (u64)from, (u64)from, 0);
    end_check(at("cmps.single", cpl), &c, 0, (u64)from + 2, (u64)from + 2, F_ZF | F_PF);
    c = run_string(cpl, CODE(".byte 0xF2; stosb"), 0, 5, 0, (u64)to + 20, 0x66);
    end_check(at("repne-stos", cpl), &c, 0, 0, (u64)to + 25, 0);
    c = run_string(cpl, CODE(".byte 0xF2; movsb"), 0, 3, (u64)from, (u64)to + 30, 0);
    end_check(at("repne-movs", cpl), &c, 0, (u64)from + 3, (u64)to + 33, 0);

    /* 67h: ECX, ESI, EDI; their upper halves are cleared when they are written. */
    u64 high = 0xABCD000000000000;
    c = run_string(cpl, CODE("addr32 rep movsb"), 0, high | 3, high | (u64)from, high | (u64)to, 0);
    end_check(at("addr32-movs", cpl), &c, 0, (u64)from + 3, (u64)to + 3, 0);
    c = run_string(cpl, CODE("addr32 rep stosb"), 0, high, high | 5, high | (u64)to, 0);
    CHECK(at("addr32-stos.zero-count", cpl), trap.vector, V_END);
    CHECK(at("addr32-stos.zero-count.rsi", cpl), c.r[RSI], high | 5);
    c = run_string(cpl, CODE("addr32 lodsq"), 0, 0, high | (u64)from, 0, 0);
    CHECK(at("addr32-lods.rsi", cpl), c.r[RSI], (u64)from + 8);
    CHECK(at("addr32-lods.rax", cpl), c.r[RAX], *(u64 *)from);

    write_msr(MSR_FS_BASE, (u64)from + 64);
    write_msr(MSR_GS_BASE, 0xFFFF800000000000);
    fill();
    c = run_string(cpl, CODE("fs rep movsb"), 0, 4, 0xFFFFFFFFFFFFFFFE, (u64)to, 0);
    end_check(at("fs-movs", cpl), &c, 0, 2, (u64)to + 4, 0);
    CHECK(at("fs-movs.value", cpl), *(u32 *)to, *(u32 *)(from + 62));
    c = run_string(cpl, CODE("gs lodsb"), 0, 0, (u64)from + 10 - 0xFFFF800000000000, 0, 0);
    CHECK(at("gs-lods.wraps", cpl), c.r[RAX], from[10]);
    c = run_string(cpl, CODE("fs stosb"), 0, 0, 0, (u64)to + 3, 0x99);
    CHECK(at("fs-stos.ignores-override", cpl), to[3], 0x99);
    write_msr(MSR_FS_BASE, 0);
    write_msr(MSR_GS_BASE, 0);
}

/* --- faults in the middle */

static const u64 source_page = WINDOW, target_page = WINDOW + 0x100000;
static const u64 source_frame = FREE_RAM, target_frame = FREE_RAM + 0x10000;

static void unmap_windows(void)
{
    for (u64 p = 0; p < 16; p++) {
        map4k(source_page + p * 4096, 0, 0);
        map4k(target_page + p * 4096, 0, 0);
    }
}

static void fault_check(const char *name, int cpl, void *code, u64 flags, u64 rcx, u64 rsi, u64 rdi,
                        u64 error, u64 cr2, u64 done, int size)
{
    i64 step = flags & F_DF ? -size : size;
    struct cpu c = run_string(cpl, code, flags, rcx, rsi, rdi, 0x11);
    int moves_source = rsi > 0xFFFF, moves_target = rdi > 0xFFFF;
    char full[96];
    format_name(full, "%s.size%d.%s.cpl%d", name, size, flags & F_DF ? "down" : "up", cpl);
    check_pf(full, code, error | (cpl ? PF_U : 0), cr2);
    rcx -= done;
    rsi += moves_source ? (u64)step * done : 0;
    rdi += moves_target ? (u64)step * done : 0;
    if (c.r[RCX] == rcx && c.r[RSI] == rsi && c.r[RDI] == rdi)
        check_ok(with(full, "registers"));
    else
        check_failed(with(full, "registers"), "got rcx 0x%lx rsi 0x%lx rdi 0x%lx want rcx 0x%lx "
                     "rsi 0x%lx rdi 0x%lx", c.r[RCX], c.r[RSI], c.r[RDI], rcx, rsi, rdi);
}

static void test_faults(int cpl, int size, int down)
{
    u64 s = (u64)size, flags = down ? F_DF : 0;
    /* Two pages each, the inner one mapped; elements from 5 before its edge. */
    u64 edge_up = 0x2000, edge_down = 0x1000;
    u64 start = down ? edge_down + 4 * s : edge_up - 5 * s;
    u64 cr2 = down ? edge_down - s : edge_up;
    unmap_windows();
    map4k(source_page + 0x1000, source_frame, P_P | P_W | P_U);
    map4k(target_page + 0x1000, target_frame, P_P | P_W | P_U);
    memset((void *)source_frame, 0x44, 4096);
    memset((void *)target_frame, 0x11, 4096);
    fault_check("fault.stos", cpl, stos(size), flags, 100, 1, target_page + start, PF_W,
                target_page + cr2, 5, size);
    fault_check("fault.lods", cpl, lods(size), flags, 100, source_page + start, 1, 0,
                source_page + cr2, 5, size);
    fault_check("fault.movs-target", cpl, movs(size), flags, 100, source_page + 0x1800,
                target_page + start, PF_W, target_page + cr2, 5, size);
    fault_check("fault.movs-source", cpl, movs(size), flags, 100, source_page + start,
                target_page + 0x1800, 0, source_page + cr2, 5, size);
    memset((void *)target_frame, 0x44, 4096);
    fault_check("fault.cmps", cpl, cmps(size), flags, 100, source_page + 0x1800,
                target_page + start, 0, target_page + cr2, 5, size);
    memset((void *)target_frame, 0, 4096);
    fault_check("fault.scas", cpl, scas(size, 0), flags, 100, 1, target_page + start, 0,
                target_page + cr2, 5, size);
    map4k(target_page + 0x1000, target_frame, P_P | P_U);
    fault_check("fault.movs-read-only", cpl, movs(size), flags, 3, source_page + 0x1800,
                target_page + 0x1800, PF_P | PF_W, target_page + 0x1800, 0, size);
    if (size > 1 && !down) {
        /* An element over the edge is not begun. */
        map4k(target_page + 0x1000, target_frame, P_P | P_W | P_U);
        memset((void *)target_frame, 0x77, 4096);
        fault_check("fault.stos-straddle", cpl, stos(size), 0, 9, 1,
                    target_page + 0x2000 - 2 * s - 1, PF_W, target_page + 0x2000, 2, size);
        CHECK(at("fault.stos-straddle.byte", cpl), *(u8 *)(target_frame + 4095), 0x77);
    }
}

/* A #PF handler that maps the page: the instruction goes on and completes. */
static int map_hook(struct trap *t)
{
    if (t->vector != V_PF)
        return 0;
    u64 page = t->cr2 & ~0xFFFul;
    u64 frame = (page >= target_page ? target_frame : source_frame) + (page & 0xF000);
    map4k(page, frame, P_P | P_W | P_U);
    return 1;
}

static void test_demand(int cpl)
{
    unmap_windows();
    for (u64 i = 0; i < 0x10000; i += 8)
        *(u64 *)(source_frame + i) = i * 0x9E3779B97F4A7C15;
    memset((void *)target_frame, 0, 0x10000);
    trap_hook = map_hook;
    trap.count = 0;
    void *code = CODE("rep movsb");
    struct cpu c = run_string(cpl, code, 0, 0xE123, source_page + 0x45, target_page + 0x333, 0);
    trap_hook = 0;
    end_check(at("demand", cpl), &c, 0, source_page + 0x45 + 0xE123, target_page + 0x333 + 0xE123, 0);
    CHECK(at("demand.faults", cpl), trap.count, 15 + 15 + 1);
    CHECK(at("demand.memory", cpl),
          memcmp((void *)(source_frame + 0x45), (void *)(target_frame + 0x333), 0xE123), 0);
    CHECK(at("demand.before", cpl), *(u8 *)(target_frame + 0x332), 0);
    CHECK(at("demand.after", cpl), *(u8 *)(target_frame + 0x333 + 0xE123), 0);
}

static void test_non_canonical(int cpl)
{
    void *store = CODE("rep stosb"), *load = CODE("rep lodsq");
    run_string(cpl, store, 0, 5, 0, 0x8000000000000000, 0);
    check_fault(at("non-canonical.stos", cpl), store, V_GP, 0);
    run_string(cpl, load, 0, 5, 0x0000800000000000, 0, 0);
    check_fault(at("non-canonical.lods", cpl), load, V_GP, 0);
    map4k(0x7FFFFFFFF000, FREE_RAM, P_P | P_W | P_U);
    struct cpu c = run_string(cpl, store, 0, 10, 0, 0x7FFFFFFFFFFC, 0);
    check_fault(at("non-canonical.stos-into", cpl), store, V_GP, 0);
    CHECK(at("non-canonical.stos-into.rcx", cpl), c.r[RCX], 6);
    CHECK(at("non-canonical.stos-into.rdi", cpl), c.r[RDI], 0x800000000000);
}

void guest_main(void)
{
    static const int sizes[] = { 1, 2, 4, 8 };
    EACH_CPL(cpl) {
        for (int s = 0; s < 4; s++)
            for (int down = 0; down < 2; down++) {
                test_moves(cpl, sizes[s], down);
                test_compares(cpl, sizes[s], down);
                test_faults(cpl, sizes[s], down);
            }
        test_single(cpl);
        test_demand(cpl);
        test_non_canonical(cpl);
    }
}
