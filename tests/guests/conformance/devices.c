/* One MOV meets a device, RAM, a page that is not mapped and one that is read-only, in turn and in
   loops: IOREGSEL of the I/O APIC, which keeps 8 bits of a 32-bit access, and a page of RAM. */
#include "guest.h"

#define DEVICE 0xFEC00000ul
#define PLACE 0x5000000000ul
#define SELECT (*(volatile u32 *)DEVICE)
#define KERNEL_PAGE (P_P | P_W)

enum { TURNS = 100 };
static ALIGNED(4096) volatile u64 cell[512];

static void show_device(void) { map4k(PLACE, DEVICE, KERNEL_PAGE | P_PCD); }
static void show_ram(u64 bits) { map4k(PLACE, (u64)cell, bits); }
static void show_nothing(void) { map4k(PLACE, 0, 0); }

/* Run `code` with the window's address in RCX, and a value in RAX. */
static void at_window(void *code, u64 value)
{
    struct cpu c = at_cpl0(code);
    c.r[RCX] = PLACE;
    c.r[RAX] = value;
    c.rflags |= F_CF | F_ZF;
    run(&c);
}

static const u64 filled = 0x8182838485868788;

static void test_reads(void)
{
    const struct { const char *name; void *code; u64 ram; } codes[] = {
        { "read32", CODE("mov (%rcx), %eax"), 0x85868788 },
        { "movslq", CODE("movslq (%rcx), %rax"), 0xFFFFFFFF85868788 },
        { "absolute", CODE("movabs 0x5000000000, %eax"), 0x85868788 },
        { "indexed", CODE("xor %edx, %edx; stc; mov (%rcx,%rdx,8), %eax"), 0x85868788 },
    };
    cell[0] = filled;
    for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
        for (u64 turn = 0; turn < TURNS; turn++) {
            SELECT = turn;
            show_device();
            at_window(codes[i].code, filled);
            if (turn < 4 || trap.c.r[RAX] != turn) {
                check_end(codes[i].name, codes[i].code);
                CHECK(with(codes[i].name, "device"), trap.c.r[RAX], turn);
                CHECK(with(codes[i].name, "flags"), trap.c.rflags & F_CF, F_CF);
            }
            if (turn % 5)
                continue;
            show_ram(P_P);
            at_window(codes[i].code, filled);
            if (turn < 20 || trap.c.r[RAX] != codes[i].ram)
                CHECK(with(codes[i].name, "ram"), trap.c.r[RAX], codes[i].ram);
        }
        show_nothing();
        at_window(codes[i].code, filled);
        CHECK(with(codes[i].name, "absent.cr2"), trap.cr2, PLACE);
        CHECK(with(codes[i].name, "absent.vector"), trap.vector, V_PF);
        CHECK(with(codes[i].name, "absent.rax"), trap.c.r[RAX], filled);
    }
}

static void test_writes(void)
{
    const struct { const char *name; void *code; u64 device, ram; } codes[] = {
        { "write32", CODE("mov %eax, (%rcx)"), 0x44, 0x8182838411223344 },
        { "immediate", CODE("movl $0x17, (%rcx)"), 0x17, 0x8182838400000017 },
        { "absolute-write", CODE("movabs %eax, 0x5000000000"), 0x44, 0x8182838411223344 },
    };
    for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
        for (u64 turn = 0; turn < TURNS; turn++) {
            SELECT = turn;
            show_device();
            at_window(codes[i].code, 0x11223344);
            if (turn < 4 || SELECT != codes[i].device) {
                check_end(codes[i].name, codes[i].code);
                CHECK(with(codes[i].name, "device"), SELECT, codes[i].device);
            }
            if (turn % 5)
                continue;
            cell[0] = filled;
            show_ram(KERNEL_PAGE);
            at_window(codes[i].code, 0x11223344);
            if (turn < 20 || cell[0] != codes[i].ram)
                CHECK(with(codes[i].name, "ram"), cell[0], codes[i].ram);
        }
        show_ram(P_P);
        cell[0] = filled;
        at_window(codes[i].code, 0x11223344);
        check_pf(with(codes[i].name, "read-only"), codes[i].code, PF_P | PF_W, PLACE);
        CHECK(with(codes[i].name, "read-only.cell"), cell[0], filled);
    }
}

/* A loop that goes over from the device to RAM, and back. */
static void test_loop(void)
{
    void *sum = CODE("xor %eax, %eax\n"
                     "1: mov (%rcx), %ebx\n"
                     "add %rbx, %rax\n"
                     "mov %ebx, (%rcx)\n"
                     "dec %edx\n"
                     "jnz 1b");
    for (u64 turn = 0; turn < 6; turn++) {
        SELECT = 7;
        show_device();
        run_with(0, sum, 0, PLACE, 300);
        CHECK("loop.device", trap.c.r[RAX], 7 * 300);
        cell[0] = 0x100000009;
        show_ram(KERNEL_PAGE);
        run_with(0, sum, 0, PLACE, 300);
        CHECK("loop.ram", trap.c.r[RAX], 9 * 300);
    }
}

void guest_main(void)
{
    test_reads();
    test_writes();
    test_loop();
}
