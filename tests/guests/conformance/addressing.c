/* Every form of memory operand: all bases, indices and scales with each displacement, loads, stores
   and read-modify-write in each size; FS, GS, 67h, RIP-relative and absolute ones. The programs are
   made here byte by byte and compared with the address computed in C. */
#include "guest.h"
#include "operand.h"

/* Divisible by 2, 3, 5 and 9, so that one register can be base and index at once. */
static const u64 target = WINDOW / 90 * 90 + 0x1C2000 / 90 * 90;
extern u64 user_cell;       /* global, so that assembly can name it */
u64 user_cell UDATA = 0x1234;
static const u64 frame = FREE_RAM;

static u64 mask_of(int size)
{
    return size == 8 ? ~0ul : (1ul << (8 * size)) - 1;
}

static void operand_check(const char *what, const struct operand *o, enum kind kind, int size,
                          int reg, const struct cpu *c, u64 linear, u64 physical)
{
    char name[80];
    format_name(name, "%s.%s%d.b%d.i%d.s%d.d%d.p%x.r%d", what,
                kind == LOAD ? "load" : kind == STORE ? "store" : "add", size,
                o->base, o->index, o->scale, o->displacement, (u32)o->prefix, reg);
    u64 before = 0xA1B2C3D4E5F60718 ^ linear * 0x0101010101010101, mask = mask_of(size);
    u64 value = c->r[reg], around = ~before;
    *(u64 *)(physical - 8) = *(u64 *)(physical + 8) = around;
    *(u64 *)physical = before;
    struct cpu want = *c;
    u64 memory = before;
    if (kind == LOAD)
        want.r[reg] = size == 4 ? before & mask : (value & ~mask) | (before & mask);
    else if (kind == STORE)
        memory = (before & ~mask) | (value & mask);
    else
        memory = (before & ~mask) | ((before + value) & mask);
    run(c);
    int bad = trap.vector != V_END;
    for (int r = 0; r < 16; r++)
        bad |= trap.c.r[r] != want.r[r];
    bad |= *(u64 *)physical != memory || *(u64 *)(physical - 8) != around
        || *(u64 *)(physical + 8) != around;
    if (bad)
        check_failed(name, "got vector %lu cr2 0x%lx register 0x%lx memory 0x%lx want register 0x%lx "
                     "memory 0x%lx address 0x%lx", trap.vector, trap.cr2, trap.c.r[reg],
                     *(u64 *)physical, want.r[reg], memory, linear);
    else
        check_ok(name);
}

/* Registers such that the operand is at `linear`. */
static struct cpu registers(int cpl, void *code, const struct operand *o, u64 linear)
{
    struct cpu c = at_cpl(cpl, code);
    for (int r = 0; r < 16; r++)
        c.r[r] = 0x1000100010001000 * (u64)(r + 1) + (u64)r;
    u64 rest = linear - (u64)(i64)o->displacement;
    if (o->base >= 0 && o->base == o->index) {
        c.r[o->base] = rest / ((1ul << o->scale) + 1);
    } else if (o->base >= 0 && o->index >= 0) {
        c.r[o->index] = (u64)(-77 * (i64)(o->index + 1));
        c.r[o->base] = rest - (c.r[o->index] << o->scale);
    } else if (o->base >= 0) {
        c.r[o->base] = rest;
    } else if (o->index >= 0) {
        c.r[o->index] = rest >> o->scale;
    }
    return c;
}

static void form(int cpl, const struct operand *o, u32 turn)
{
    static const int sizes[] = { 8, 4, 1, 2 };
    enum kind kind = turn % 3;
    int size = sizes[turn / 3 % 4], reg = (int)(turn * 7 % 16);
    void *code = operand_code(o, kind, size, reg);
    u64 linear = target;
    if (o->base >= 0 && o->base == o->index)
        linear = target + (u64)(i64)o->displacement;
    struct cpu c = registers(cpl, code, o, linear);
    if (reg != o->base && reg != o->index)
        c.r[reg] = 0x7766554433221100 + turn;
    linear = operand_address(o, &c);
    operand_check("form", o, kind, size, reg, &c, linear, frame + linear - (target & ~0xFFFul) + 0x2000);
}

static void test_forms(int cpl)
{
    static const i32 displacements[] = { 0, 8, -128, 127, 0x1000, -0x1000, 128 };
    u32 turn = (u32)cpl;
    for (int base = 0; base < 16; base++)
        for (int d = 0; d < 7; d++) {
            struct operand o = { base, -1, 0, displacements[d], 0 };
            form(cpl, &o, turn++);
        }
    for (int base = 0; base < 16; base++)
        for (int index = 0; index < 16; index++) {
            if (index == RSP)
                continue;
            struct operand o = { base, index, (base + index * 3) & 3,
                                 displacements[(base * 5 + index) % 7], 0 };
            form(cpl, &o, turn++);
        }
    for (int index = 0; index < 16; index++)
        for (int scale = 0; scale < 4; scale++) {
            if (index == RSP)
                continue;
            struct operand o = { -1, index, scale, (i32)(target & 0xFFF) & -8, 0 };
            form(cpl, &o, turn++);
            o.base = (index + 1) % 16;
            form(cpl, &o, turn++);
        }
}

/* An operand of given registers at a given place. */
static void special(int cpl, const char *what, struct operand o, u64 base, u64 index, u64 physical)
{
    for (int i = 0; i < 6; i++) {
        int reg = i & 1 ? R9 : RDX, size = i & 2 ? 4 : 8;
        enum kind kind = (enum kind)(i % 3);
        struct cpu c = at_cpl(cpl, operand_code(&o, kind, size, reg));
        c.r[reg] = 0x0123456789ABCDEF;
        if (o.base >= 0)
            c.r[o.base] = base;
        if (o.index >= 0)
            c.r[o.index] = index;
        operand_check(what, &o, kind, size, reg, &c, operand_address(&o, &c), physical);
    }
}

static void test_special(int cpl)
{
    u64 low = (u64)user_stack + 256;    /* below 4 GiB, for 67h */
    write_msr(MSR_FS_BASE, 0xFFFF900000000000);
    write_msr(MSR_GS_BASE, 0x00007FFF00000000);
    u64 fs_page = 0xFFFF900000000000, gs_page = 0x00007FFF00000000;
    for (u64 p = 0; p < 4; p++) {
        map4k(fs_page + p * 4096, frame + p * 4096, P_P | P_W | P_U);
        map4k(gs_page + p * 4096, frame + p * 4096, P_P | P_W | P_U);
    }
    special(cpl, "fs", (struct operand) { -1, -1, 0, 0x128, 0x64 }, 0, 0, frame + 0x128);
    special(cpl, "fs-base", (struct operand) { RBX, -1, 0, 0x10, 0x64 }, 0x1000, 0, frame + 0x1010);
    special(cpl, "fs-negative", (struct operand) { RBX, -1, 0, 0x2010, 0x64 }, (u64)-0x1000, 0,
            frame + 0x1010);
    special(cpl, "gs", (struct operand) { -1, -1, 0, 0x2128, 0x65 }, 0, 0, frame + 0x2128);
    special(cpl, "gs-index", (struct operand) { R12, R13, 3, -64, 0x65 }, 0x1000, 0x11,
            frame + 0x1000 + 0x88 - 64);
    special(cpl, "gs-wrap", (struct operand) { RSI, -1, 0, 0, 0x65 }, fs_page - gs_page + 8, 0, frame + 8);
    special(cpl, "absolute", (struct operand) { -1, -1, 0, (i32)low, 0 }, 0, 0, low);
    special(cpl, "addr32", (struct operand) { RDI, -1, 0, 0, 0x67 }, 0xFFFFFFFF00000000 | low, 0, low);
    special(cpl, "addr32-wrap", (struct operand) { RDI, RSI, 1, 0x7FFFFFF0, 0x67 },
            0xDEAD0000C0000000, 0xBEEF000000000000 | (low - 0x7FFFFFF0ul - 0xC0000000ul) >> 1, low);
    special(cpl, "addr32-absolute", (struct operand) { -1, -1, 0, (i32)low, 0x67 }, 0, 0, low);
    special(cpl, "high-disp", (struct operand) { R10, -1, 0, (i32)0x80000000, 0 },
            target + 0x80000000, 0, frame + 0x2000 + (target & 0xFFF));
    special(cpl, "index64", (struct operand) { RBX, R11, 3, 0, 0 }, target - 0x7000000000000000ul * 8,
            0x7000000000000000, frame + 0x2000 + (target & 0xFFF));
    special(cpl, "index-negative", (struct operand) { RBP, RCX, 2, 0, 0 }, target + 0x4000000000,
            (u64)-0x1000000000, frame + 0x2000 + (target & 0xFFF));
    write_msr(MSR_FS_BASE, 0);
    write_msr(MSR_GS_BASE, 0);
}

static void test_lea_and_rip(int cpl)
{
    void *code = CODE("mov user_cell(%rip), %rax; addq $1, user_cell(%rip); lea user_cell(%rip), %rbx;"
                      "movb $7, user_cell+7(%rip); cmpl $0x1235, user_cell(%rip); sete %cl;"
                      "mov user_cell(%eip), %rdx; mov user_cell(%rip), %r11");
    user_cell = 0x1234;
    run_code(cpl, code);
    check_end(at("rip-relative", cpl), code);
    CHECK(at("rip-relative.load", cpl), trap.c.r[RAX], 0x1234);
    CHECK(at("rip-relative.lea", cpl), trap.c.r[RBX], (u64)&user_cell);
    CHECK(at("rip-relative.cmp", cpl), trap.c.r[RCX], 1);
    CHECK(at("rip-relative.eip", cpl), trap.c.r[RDX], 0x0700000000001235);
    CHECK(at("rip-relative.r11", cpl), trap.c.r[R11], 0x0700000000001235);
    code = CODE("mov $0x8000000000000001, %rsi; mov $3, %r9; lea (%rsi,%r9,8), %rax;"
                "lea -1(%esi,%r9d), %rbx; lea 0x10(%rsi,%rsi), %ecx; lea (%r9,%r9,2), %r10w;"
                "lea -0x80000000(,%r9,4), %r11; lea 5(%rsp), %r8; lea (%r8,%r8), %r8");
    run_code(cpl, code);
    CHECK(at("lea.scaled", cpl), trap.c.r[RAX], 0x8000000000000019);
    CHECK(at("lea.addr32", cpl), trap.c.r[RBX], 3);
    CHECK(at("lea.32", cpl), trap.c.r[RCX], 0x12);
    CHECK(at("lea.16", cpl), trap.c.r[R10], 9);
    CHECK(at("lea.index-only", cpl), trap.c.r[R11], 0xFFFFFFFF8000000C);
    CHECK(at("lea.rsp", cpl), trap.c.r[R8], 2 * ((cpl ? USER_RSP : KERNEL_RSP) + 5));
    code = CODE("movabs user_cell, %al; movabs user_cell, %rax; mov %rax, %rbx; movabs %eax, user_cell;"
                "addr32 mov user_cell, %eax");
    run_code(cpl, code);
    check_end(at("moffs", cpl), code);
    CHECK(at("moffs.load", cpl), trap.c.r[RBX], 0x0700000000001235);
    CHECK(at("moffs.addr32", cpl), trap.c.r[RAX], 0x1235);
    write_msr(MSR_FS_BASE, (u64)&user_cell - 0x112233445566);
    code = CODE(".byte 0x64, 0x48, 0xA1; .quad 0x112233445566");
    run_code(cpl, code);
    CHECK(at("moffs.fs", cpl), trap.c.r[RAX], 0x0700000000001235);
    write_msr(MSR_FS_BASE, 0);
}

void guest_main(void)
{
    for (u64 p = 0; p < 6; p++)
        map4k((target & ~0xFFFul) - 0x2000 + p * 4096, frame + p * 4096, P_P | P_W | P_U);
    EACH_CPL(cpl) {
        test_forms(cpl);
        test_special(cpl);
        test_lea_and_rip(cpl);
    }
}
