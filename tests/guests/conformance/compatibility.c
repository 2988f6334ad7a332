/* Compatibility mode: 16- and 32-bit code under IA-32e mode.  Segments, limits and instructions are
   those of protected mode; events, gates and tasks are those of 64-bit mode (SDM 3A 3.4.4, 5.8.3.1,
   6.14, 7.7; 1 3.2.1). */
#include "guest.h"

#define PLAIN32(body) CODE(".code32\n" body "\n.code64")
/* DS and ES are null after an IRETQ to ring 3, which only 64-bit code does not mind. */
#define CODE32(body) PLAIN32("mov $0x23, %ebp\nmov %ebp, %ds\nmov %ebp, %es\n" body)
#define CODE16(body) CODE(".code16\n" body "\n.code64")

enum { K32 = FREE_SEL, C16 = FREE_SEL + 8, SMALL = FREE_SEL + 16, DOWN = FREE_SEL + 24,
       GATE = FREE_SEL + 32 /* 16 bytes */, SHORT = FREE_SEL + 48 };

static u32 area[1024] UDATA;
#define AREA ((u64)area)

static struct cpu in_compatibility(int cpl, const void *code)
{
    struct cpu c = at_cpl(cpl, code);
    c.cs = cpl ? UCODE32 : K32;
    return c;
}

static void run_32(int cpl, const void *code, u64 rax, u64 rcx)
{
    struct cpu c = in_compatibility(cpl, code);
    c.r[RAX] = rax;
    c.r[RCX] = rcx;
    run(&c);
}

static void basics(int cpl)
{
    void *code = CODE32(".byte 0x40\nmov %cs, %ecx\npush %eax\nmov %esp, %ebx\npop %edx");
    struct cpu c = in_compatibility(cpl, code);
    c.r[RAX] = 0xFFFFFFFE;
    run(&c);
    check_end(at("compat.end", cpl), code);
    CHECK(at("compat.inc", cpl), (u32)trap.c.r[RAX], 0xFFFFFFFF);   /* 40h is INC, not REX */
    CHECK(at("compat.cs", cpl), trap.c.r[RCX] & 0xFFFF, cpl ? UCODE32 : K32);
    CHECK(at("compat.push", cpl), (u32)trap.c.r[RBX], c.r[RSP] - 4);
    CHECK(at("compat.pop", cpl), (u32)trap.c.r[RDX], 0xFFFFFFFF);
    CHECK(at("compat.saved-rsp", cpl), trap.c.r[RSP], c.r[RSP]);
    CHECK(at("compat.saved-cs", cpl), trap.c.cs, cpl ? UCODE32 : K32);
}

/* 32-bit sums wrap, and only the low half of the base of FS counts. */
static void addresses(void)
{
    void *sum = CODE32("mov (%eax,%ecx), %edx\nmov -4(%eax,%ecx), %ebx");
    area[9] = 0x9999;
    area[10] = 0x1010;
    run_32(3, sum, 0xFFFFFFF0, AREA + 40 + 16);
    check_end("address.wraps", sum);
    CHECK("address.wraps.value", (u32)trap.c.r[RDX], 0x1010);
    CHECK("address.wraps.below", (u32)trap.c.r[RBX], 0x9999);
    void *fs = CODE32("mov %fs:(%eax), %edx");
    asm volatile("mov %0, %%fs\nmov %0, %%gs" :: "r"(UDATA_SEL));
    write_msr(MSR_FS_BASE, 0x700000000ul + AREA);
    run_32(3, fs, 40, 0);
    check_end("address.fs", fs);
    CHECK("address.fs.value", (u32)trap.c.r[RDX], 0x1010);
    void *gs = CODE32("addr16 mov %gs:(%bx), %edx");
    write_msr(MSR_GS_BASE, AREA - 0x1000);
    struct cpu c = in_compatibility(3, gs);
    c.r[RBX] = 0xFFFF1028;
    run(&c);
    check_end("address.gs", gs);
    CHECK("address.gs.value", (u32)trap.c.r[RDX], 0x1010);
    asm volatile("mov %0, %%fs\nmov %0, %%gs" :: "r"(0));
    run_32(3, fs, 0, 0);
    CHECK("address.fs-null", trap.vector << 16 | trap.error, V_GP << 16);
}

/* Limits and types hold again, though 64-bit code ignores them. */
static void limits(void)
{
    set_segment(SMALL, (u32)AREA, 0xFF, 0x40F3);
    set_segment(DOWN, (u32)AREA, 0xFF, 0x40F7);
    static const struct { const char *name; u32 selector, offset; int fault; } rows[] = {
        { "last", SMALL | 3, 0xFC, 0 }, { "beyond", SMALL | 3, 0xFD, V_GP },
        { "down", DOWN | 3, 0x100, 0 }, { "down-below", DOWN | 3, 0xFF, V_GP },
        { "null", 0, 0, V_GP },
    };
    void *data = CODE32("mov %eax, %es\n" MARK "mov %es:(%ecx), %edx");
    for (u32 i = 0; i < sizeof rows / sizeof *rows; i++) {
        run_32(3, data, rows[i].selector, rows[i].offset);
        if (rows[i].fault)
            check_fault(with("compat-limit", rows[i].name), data, V_GP, 0);
        else
            check_end(with("compat-limit", rows[i].name), data);
    }
    void *stack = CODE32("mov %eax, %ss\nmov %ecx, %esp\n" MARK "push %eax");
    run_32(3, stack, SMALL | 3, 0x100);
    check_end("compat-limit.stack", stack);
    CHECK("compat-limit.stack.rsp", trap.c.r[RSP], 0xFC);
    run_32(3, stack, SMALL | 3, 0x102);
    check_fault("compat-limit.stack.beyond", stack, V_SS, 0);
    void *ss = CODE32(MARK "mov %eax, %ss");
    run_32(3, ss, 0, 0);
    check_fault("compat-limit.null-ss", ss, V_GP, 0);
    run_32(0, ss, 0, 0);                /* only 64-bit code may have a null SS */
    check_fault("compat-limit.null-ss.cpl0", ss, V_GP, 0);
    void *write = CODE32(MARK "movb %al, %cs:(%ecx)");
    run_32(3, write, 0, AREA);
    check_fault("compat-limit.write-code", write, V_GP, 0);
    void *jump = CODE32(MARK "jmp *%eax");
    set_segment(SHORT, 0, 0xFFF, 0x40FB | 0x8000);
    struct cpu c = in_compatibility(3, jump);
    c.r[RAX] = 0x1000000;               /* the limit is FFFFFFh */
    c.cs = SHORT | 3;
    run(&c);
    check_fault("compat-limit.jump", jump, V_GP, 0);
}

static void instructions(void)
{
    void *old = CODE32("aaa\ndaa\n.byte 0xD6\npusha\npopa\ninto\npush %es\npop %es");
    run_32(3, old, 0, 0);
    check_end("old.instructions", old);
    void *arpl = CODE32("arpl %cx, %ax");
    run_32(3, arpl, 8, 3);
    CHECK("old.arpl", (u32)trap.c.r[RAX], 11);
    void *bound = CODE32(MARK "bound %eax, (%ecx)");
    area[0] = 5;
    area[1] = 7;
    run_32(3, bound, 8, AREA);
    check_fault("old.bound", bound, 5, 0);
    void *lds = CODE32(MARK "les (%ecx), %eax\nmov %es, %edx");
    area[0] = 0x12345678;
    area[1] = UDATA_SEL;
    run_32(3, lds, 0, AREA);
    check_end("old.les", lds);
    CHECK("old.les.offset", (u32)trap.c.r[RAX], 0x12345678);
    CHECK("old.les.selector", (u32)trap.c.r[RDX], UDATA_SEL);
    void *sgdt = CODE32("sgdt (%ecx)");
    area[1] = 0xEEEEEEEE;
    run_32(3, sgdt, 0, AREA);
    check_end("old.sgdt", sgdt);
    CHECK("old.sgdt.six-bytes", area[1] >> 16, 0xEEEE);
    CHECK("old.sgdt.base", (area[0] >> 16) | area[1] << 16, (u32)(u64)gdt);
    void *syscall = CODE32(MARK "syscall");
    if (is_intel()) {
        run_32(3, syscall, 0, 0);
        check_fault("old.syscall", syscall, V_UD, 0);
    }
    void *swapgs = CODE32(MARK ".byte 0x0F, 0x01, 0xF8");
    run_32(0, swapgs, 0, 0);
    check_fault("old.swapgs", swapgs, V_UD, 0);
    void *narrow = CODE16("mov $0x1234, %ax\nlea -1(%bx), %cx\npush %ax\npop %dx");
    set_segment(C16, 0, 0xFFFFF, 0x80FB);
    struct cpu c = at_cpl3(narrow);
    c.cs = C16 | 3;
    c.r[RBX] = 0x10000;
    run(&c);
    check_end("code16", narrow);
    CHECK("code16.ax", trap.c.r[RAX] & 0xFFFF, 0x1234);
    CHECK("code16.lea", trap.c.r[RCX] & 0xFFFF, 0xFFFF);
    CHECK("code16.pop", trap.c.r[RDX] & 0xFFFF, 0x1234);
}

/* Far transfers between the sizes of code. */
static void transfers(void)
{
    void *wide = CODE("mov $0x123456789ABCDEF0, %rax\nmov %cs, %ecx");
    void *jump = CODE32(MARK "ljmp *(%eax)");
    area[0] = (u32)(u64)wide;
    area[1] = UCODE;
    run_32(3, jump, AREA, 0);
    check_end("far.jmp-to-64", wide);
    CHECK("far.jmp-to-64.rax", trap.c.r[RAX], 0x123456789ABCDEF0);
    CHECK("far.jmp-to-64.cs", trap.c.cs, UCODE);
    void *back = CODE("lretl");
    void *call = CODE32("lcall *(%eax)\nmov %cs, %edx\nmov %esp, %ebx");
    area[0] = (u32)(u64)back;
    struct cpu c = in_compatibility(3, call);
    c.r[RAX] = AREA;
    run(&c);
    check_end("far.call-and-lret", call);
    CHECK("far.call-and-lret.cs", trap.c.r[RDX] & 0xFFFF, UCODE32);
    CHECK("far.call-and-lret.rsp", (u32)trap.c.r[RBX], c.r[RSP]);
    void *iret = CODE32("pushf\npush $0x2B\npush %eax\n" MARK "iret");
    run_32(3, iret, (u64)wide, 0);      /* IRETD to 64-bit code of the same ring */
    check_end("far.iret-to-64", wide);
    CHECK("far.iret-to-64.cs", trap.c.cs, UCODE);
    void *vm = CODE32("pushf\norl $0x20000, (%esp)\npush $0x50\npush %eax\n" MARK "iret");
    void *inner = CODE32("pushf\npop %edx");
    run_32(0, vm, (u64)inner, 0);       /* VM does not exist there */
    check_end("far.iret-vm", inner);
    CHECK("far.iret-vm.flags", trap.c.r[RDX] & F_VM, 0);
    void *nt = CODE32(MARK "iret");
    c = in_compatibility(3, nt);
    c.rflags |= F_NT;
    run(&c);
    check_fault("far.iret-nt", nt, V_GP, 0);
    void *task = CODE32(MARK "ljmp $0x30, $0");     /* TSS_SEL */
    run_32(0, task, 0, 0);
    check_fault("far.task", task, V_GP, TSS_SEL);
}

/* A 64-bit call gate from 32-bit code of ring 3: four quadwords, and a null SS. */
static void gate(void)
{
    void *target = CODE("mov (%rsp), %rax\nmov 8(%rsp), %rcx\nmov 16(%rsp), %rdx\n"
                        "mov 24(%rsp), %rbx\nmov %ss, %esi\nmov %rsp, %rdi");
    void *call = CODE32(MARK "lcall $0x73, $0\n");
    set_call_gate(GATE, (u64)target, KCODE, 3);
    struct cpu c = in_compatibility(3, call);
    run(&c);
    check_end("gate.end", target);
    CHECK("gate.rip", trap.c.r[RAX], code_mark(call) + 7);
    CHECK("gate.cs", trap.c.r[RCX], UCODE32);
    CHECK("gate.rsp", trap.c.r[RDX], c.r[RSP]);
    CHECK("gate.ss", trap.c.r[RBX], c.ss);
    CHECK("gate.new-ss", trap.c.r[RSI] & 0xFFFF, 0);
    CHECK("gate.new-rsp", trap.c.r[RDI], RSP0_TOP - 32);
    set_call_gate(GATE, (u64)target, K32, 3);       /* it may only lead to 64-bit code */
    run(&c);
    check_fault("gate.to-32", call, V_GP, K32);
}

static void sysenter(void)
{
    void *target = CODE("mov $0x123456789ABCDEF0, %rax");
    void *code = CODE32(MARK "sysenter");
    write_msr(MSR_SYSENTER_CS, KCODE);
    write_msr(MSR_SYSENTER_ESP, KERNEL_RSP);
    write_msr(MSR_SYSENTER_EIP, (u64)target);
    run_32(3, code, 0, 0);
    check_end("sysenter", target);
    CHECK("sysenter.cs", trap.c.cs, KCODE);
    CHECK("sysenter.rax", trap.c.r[RAX], 0x123456789ABCDEF0);
    write_msr(MSR_SYSENTER_CS, 0);
    run_32(3, code, 0, 0);
    check_fault("sysenter.cs-null", code, V_GP, 0);
}

static void steps(void)
{
    void *code = PLAIN32("inc %eax" AFTER "inc %eax");
    struct cpu c = in_compatibility(3, code);
    c.rflags |= F_TF;
    run(&c);
    check_trap_at("step", code_after(code), V_DB, 0);
    CHECK("step.eax", (u32)trap.c.r[RAX], 1);
    void *page = CODE32(MARK "mov (%eax), %ecx");
    run_32(3, page, 0x200000, 0);
    check_pf("page-fault", page, PF_P | PF_U, 0x200000);
    void *high = CODE32(MARK "mov (%eax), %ecx");
    run_32(3, high, 0xFFFFFFFF12345678, 0);     /* the upper half of RAX does not count */
    CHECK("page-fault.32-bits", trap.cr2 >> 32, 0);
}

void guest_main(void)
{
    set_segment(K32, 0, 0xFFFFF, 0xC09B);
    EACH_CPL(cpl)
        basics(cpl);
    addresses();
    limits();
    instructions();
    transfers();
    gate();
    sysenter();
    steps();
}
