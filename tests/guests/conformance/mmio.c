/* Instructions that a hypervisor carries out itself reach memory that is a device's: here IOREGSEL
   of the I/O APIC, which keeps 8 bits.  For a PC. */
#include "guest.h"

#define DEVICE 0xFEC00000ul
#define SELECT (*(volatile u32 *)DEVICE)
enum { SCRATCH = 0x3FF };               /* of the first serial port */

/* Run `code` with the device selected to `value`, its address in RCX, RSI and RDI. */
static void at_device(u8 value, void *code)
{
    SELECT = value;
    struct cpu c = at_cpl0(code);
    c.r[RCX] = c.r[RSI] = c.r[RDI] = DEVICE;
    c.r[RDX] = SCRATCH;
    run(&c);
}

static void test_selectors(void)
{
    const struct { const char *name; void *code; } codes[] = {
        { "lar", CODE("lar (%rcx), %eax") }, { "lsl", CODE("lsl (%rcx), %eax") },
        { "verr", CODE("verr (%rcx)") }, { "verw", CODE("verw (%rcx)") },
    };
    for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
        at_device(KDATA, codes[i].code);
        check_end(codes[i].name, codes[i].code);
        CHECK(with(codes[i].name, "accepts"), trap.c.rflags & F_ZF, F_ZF);
        at_device(0, codes[i].code);
        CHECK(with(codes[i].name, "refuses-null"), trap.c.rflags & F_ZF, 0);
    }
    void *load = CODE("mov (%rcx), %fs; mov %fs, %eax; mov %edx, %fs");
    SELECT = KDATA;
    run_with(0, load, 0, DEVICE, 0);
    check_end("mov-to-fs", load);
    CHECK("mov-to-fs.selector", trap.c.r[RAX], KDATA);
    void *beyond = CODE("mov (%rcx), %fs");
    at_device(0xF8, beyond);
    check_fault("mov-to-fs.beyond-the-table", beyond, V_GP, 0xF8);
}

static void test_loads(void)
{
    u64 cr0 = read_cr0();
    void *lmsw = CODE("lmsw (%rcx)");
    at_device(CR0_PE | CR0_MP | CR0_TS, lmsw);
    u64 loaded = read_cr0();
    write_cr0(cr0);
    CHECK("lmsw", loaded & 0xF, CR0_PE | CR0_MP | CR0_TS);
    void *outs = CODE("outsb");
    at_device(0x41, outs);
    CHECK("outsb", in8(SCRATCH), 0x41);
    CHECK("outsb.rsi", trap.c.r[RSI], DEVICE + 1);
    at_device(0x5A, CODE("mov (%rcx), %eax; add (%rcx), %al; movzwl (%rcx), %edx"));
    CHECK("add", trap.c.r[RAX], 0xB4);
    CHECK("movzwl", trap.c.r[RDX], 0x5A);
}

static void test_stores(void)
{
    out8(SCRATCH, 0x42);
    const struct { const char *name; void *code; u64 stored; } codes[] = {
        { "insb", CODE("insb"), 0x42 },
        { "mov-from-ss", CODE("mov %ss, (%rcx)"), KDATA },
        { "smsw", CODE("smsw (%rcx)"), (u8)read_cr0() },
        { "str", CODE("str (%rcx)"), TSS_SEL },
        { "sldt", CODE("sldt (%rcx)"), 0 },
        { "sgdt", CODE("sgdt (%rcx)"), (u8)(sizeof gdt - 1) },
        { "push-fs", CODE("mov %ss, %eax; mov %eax, %fs; lea 8(%rcx), %rsp; push %fs"), KDATA },
        { "pushfq", CODE("xor %eax, %eax; lea 8(%rcx), %rsp; pushfq"), F_1 | F_ZF | F_PF },
        { "fnstcw", CODE("fninit; fnstcw (%rcx)"), 0x7F },
        { "stmxcsr", CODE("stmxcsr (%rcx)"), 0x80 },
        { "maskmovdqu", CODE("pcmpeqd %xmm1, %xmm1; psrldq $15, %xmm1; mov $0x77, %eax;"
                             "movd %eax, %xmm0; maskmovdqu %xmm1, %xmm0"), 0x77 },
    };
    for (u64 i = 0; i < sizeof codes / sizeof *codes; i++) {
        at_device(1, codes[i].code);
        check_end(codes[i].name, codes[i].code);
        CHECK(with(codes[i].name, "stored"), SELECT, codes[i].stored);
    }
    run_code(0, CODE("xor %eax, %eax; mov %eax, %fs"));
}

void guest_main(void)
{
    test_selectors();
    test_loads();
    test_stores();
}
