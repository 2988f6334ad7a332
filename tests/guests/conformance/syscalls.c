/* SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, FSGSBASE, and call gates with a change of privilege. */
#include "guest.h"

enum { GATE = FREE_SEL, GATE_DPL0 = FREE_SEL + 16, GATE_SAME = FREE_SEL + 32,
       GATE_ABSENT = FREE_SEL + 48, CONFORMING = FREE_SEL + 64, GATE_CONF = FREE_SEL + 80 };

static const u64 star = 0x001Bul << 48 | 0x0008ul << 32;
static u64 saved_efer;

/* Saves what SYSCALL left and goes back to the recorder at CPL 0. */
static void *syscall_entry(void)
{
    return CODE("mov %cs, %esi; mov %ss, %edi; pushfq; pop %rbx; nop");
}

static void test_syscall(void)
{
    void *entry = syscall_entry();
    void *code = CODE("nop;" MARK "syscall" AFTER "nop");
    write_msr(MSR_STAR, star);
    write_msr(MSR_LSTAR, (u64)entry);
    static const u64 masks[] = { 0, F_IF | F_DF, ~0ul >> 32, F_TF | F_AC | F_NT | F_IOPL };
    u64 flags = F_ARITH | F_DF | F_AC | F_ID | F_IF | F_NT | F_IOPL;
    for (int i = 0; i < 4; i++)
        EACH_CPL(cpl) {
            char name[64];
            write_msr(MSR_SFMASK, masks[i]);
            struct cpu c = at_cpl(cpl, code);
            c.r[R11] = c.r[RCX] = 0x5555;
            c.rflags = flags | F_1;
            c.r[RSP] = USER_RSP;
            run(&c);
            format_name(name, "syscall.mask%d", i);
            check_end(at(name, cpl), entry);
            CHECK(at(with(name, "rcx"), cpl), trap.c.r[RCX], code_after(code));
            CHECK(at(with(name, "r11"), cpl), trap.c.r[R11], flags | F_1);
            CHECK(at(with(name, "flags"), cpl), trap.c.r[RBX], (flags & ~masks[i]) | F_1);
            CHECK(at(with(name, "cs"), cpl), trap.c.r[RSI], KCODE);
            CHECK(at(with(name, "ss"), cpl), trap.c.r[RDI], KDATA);
            CHECK(at(with(name, "rsp"), cpl), trap.c.r[RSP], USER_RSP);
        }
    write_msr(MSR_SFMASK, 0);
    write_msr(MSR_EFER, saved_efer & ~(u64)EFER_SCE);
    run_code(3, code);
    check_fault("syscall.sce-clear", code, V_UD, 0);
    void *sysret = CODE("sysretq");
    run_code(0, sysret);
    check_fault("sysret.sce-clear", sysret, V_UD, 0);
    write_msr(MSR_EFER, saved_efer);
    void *locked = CODE(".byte 0xF0, 0x0F, 0x05");
    run_code(3, locked);
    check_fault("syscall.lock", locked, V_UD, 0);
}

static void test_sysret(void)
{
    void *target = CODE("mov %cs, %esi; mov %ss, %edi; pushfq; pop %rbx");
    void *sysret = CODE("mov %rdx, %rsp;" MARK "sysretq");
    u64 flags = F_ARITH | F_DF | F_AC | F_ID | F_IF | F_NT;
    struct cpu c = at_cpl0(sysret);
    write_msr(MSR_STAR, star);
    c.r[RCX] = (u64)target;
    c.r[RDX] = USER_RSP;
    c.r[R11] = flags;
    run(&c);
    check_end("sysret", target);
    CHECK("sysret.cs", trap.c.r[RSI], UCODE);
    CHECK("sysret.ss", trap.c.r[RDI], UDATA_SEL);
    CHECK("sysret.flags", trap.c.r[RBX], flags | F_1);
    CHECK("sysret.trap-cs", trap.c.cs, UCODE);
    CHECK("sysret.rsp", trap.c.r[RSP], USER_RSP);
    c.r[R11] = flags | F_RF | F_VM | 0xFFFFFFFF00008028;
    run(&c);
    check_end("sysret.bad-flags", target);
    CHECK("sysret.bad-flags.ignored", trap.c.r[RBX], flags | F_1);
    c.r[R11] = flags;
    write_msr(MSR_STAR, star & ~(3ul << 48));   /* RPL is forced */
    run(&c);
    CHECK("sysret.cs-rpl-forced", trap.c.cs, UCODE);
    CHECK("sysret.ss-rpl-forced", trap.c.ss, UDATA_SEL);
    write_msr(MSR_STAR, star);
    if (is_intel()) {
        c.r[RCX] = 0x0000800000000000;
        run(&c);
        check_fault("sysret.non-canonical", sysret, V_GP, 0);
        CHECK("sysret.non-canonical.cs", trap.c.cs, KCODE);
        CHECK("sysret.non-canonical.rsp", trap.c.r[RSP], USER_RSP);
    }
    /* There and back many times. */
    void *entry = CODE("inc %r8; sysretq");
    void *loop = CODE("mov $500, %edx; 1: syscall; add %rdx, %r9; dec %edx; jnz 1b; nop");
    write_msr(MSR_LSTAR, (u64)entry);
    run_code(3, loop);
    check_end("syscall.loop", loop);
    CHECK("syscall.loop.kernel", trap.c.r[R8], 500);
    CHECK("syscall.loop.user", trap.c.r[R9], 125250);
}

static void test_star(void)
{
    void *code = CODE("mov %rcx, %rcx;" MARK "wrmsr");
    static const u32 canonical[] = { (u32)MSR_LSTAR, (u32)MSR_CSTAR, (u32)MSR_KERNEL_GS_BASE,
                                     (u32)MSR_FS_BASE, (u32)MSR_GS_BASE,
                                     MSR_SYSENTER_ESP, MSR_SYSENTER_EIP };
    for (int i = 0; i < 7; i++) {
        char name[64];
        u64 saved = read_msr(canonical[i]);
        format_name(name, "msr.%x.non-canonical", canonical[i]);
        run_with(0, code, 0, canonical[i], 0x8000);
        check_fault(name, code, V_GP, 0);
        format_name(name, "msr.%x.kept", canonical[i]);
        CHECK(name, read_msr(canonical[i]), saved);
        write_msr(canonical[i], 0xFFFF8123456789AB);
        format_name(name, "msr.%x.high", canonical[i]);
        CHECK(name, read_msr(canonical[i]), 0xFFFF8123456789AB);
        write_msr(canonical[i], saved);
    }
    write_msr(MSR_STAR, 0x123456789ABCDEF0);
    CHECK("msr.star", read_msr(MSR_STAR), 0x123456789ABCDEF0);
    write_msr(MSR_STAR, star);
}

static void test_sysenter(void)
{
    void *sysenter = CODE("nop;" MARK "sysenter" AFTER "nop"), *entry = syscall_entry();
    void *sysexit = CODE(MARK "rex.w sysexit"), *target = CODE("mov %cs, %esi; mov %ss, %edi");
    if (!is_intel()) {
        run_code(3, sysenter);
        check_fault("sysenter.long-mode", sysenter, V_UD, 0);
        return;
    }
    write_msr(MSR_SYSENTER_CS, 0);
    run_code(3, sysenter);
    check_fault("sysenter.cs-null", sysenter, V_GP, 0);
    run_code(0, sysexit);
    check_fault("sysexit.cs-null", sysexit, V_GP, 0);
    write_msr(MSR_SYSENTER_CS, KCODE);
    write_msr(MSR_SYSENTER_ESP, KERNEL_RSP - 24);
    write_msr(MSR_SYSENTER_EIP, (u64)entry);
    run_flags(3, sysenter, F_IF | F_CF | F_AC);
    check_end("sysenter", entry);
    CHECK("sysenter.cs", trap.c.r[RSI], KCODE);
    CHECK("sysenter.ss", trap.c.r[RDI], KDATA);
    CHECK("sysenter.rsp", trap.c.r[RSP], KERNEL_RSP - 24);
    CHECK("sysenter.flags", trap.c.r[RBX], F_1 | F_CF | F_AC);

    run_code(3, sysexit);
    check_fault("sysexit.cpl3", sysexit, V_GP, 0);
    struct cpu c = at_cpl0(sysexit);
    c.r[RDX] = (u64)target;
    c.r[RCX] = USER_RSP - 56;
    /* 64-bit: CS = SYSENTER_CS + 32, SS = + 40, with RPL 3. */
    set_segment(0x28, 0, 0xFFFFF, 0xA0FB);
    run(&c);
    check_end("sysexit", target);
    CHECK("sysexit.cs", trap.c.r[RSI], (KCODE + 32) | 3);
    CHECK("sysexit.ss", trap.c.r[RDI], (KCODE + 40) | 3);
    CHECK("sysexit.rsp", trap.c.r[RSP], USER_RSP - 56);
    c.r[RDX] = 0x0001000000000000;
    run(&c);
    check_fault("sysexit.non-canonical", sysexit, V_GP, 0);
}

static void test_swapgs(void)
{
    void *code = CODE("swapgs; mov %gs:0, %rax; swapgs; mov %gs:0, %rbx");
    static u64 words[4] UDATA = { 11, 22, 33, 44 };
    write_msr(MSR_GS_BASE, (u64)&words[1]);
    write_msr(MSR_KERNEL_GS_BASE, (u64)&words[2]);
    run_code(0, code);
    check_end("swapgs", code);
    CHECK("swapgs.swapped", trap.c.r[RAX], 33);
    CHECK("swapgs.back", trap.c.r[RBX], 22);
    void *once = CODE("swapgs");
    run_code(0, once);
    CHECK("swapgs.gs", read_msr(MSR_GS_BASE), (u64)&words[2]);
    CHECK("swapgs.kernel-gs", read_msr(MSR_KERNEL_GS_BASE), (u64)&words[1]);
    run_code(3, once);
    check_fault("swapgs.cpl3", once, V_GP, 0);
    write_msr(MSR_FS_BASE, (u64)&words[3]);
    void *fs = CODE("mov %fs:0, %rax; mov %gs:-8, %rbx; mov $8, %ecx; mov %gs:(%rcx), %rdx;"
                    ".byte 0x64; lea 5(%rcx), %rsi; addq $1, %fs:0");
    run_code(3, fs);
    check_end("fs-gs.cpl3", fs);
    CHECK("fs.base", trap.c.r[RAX], 44);
    CHECK("gs.negative", trap.c.r[RBX], 22);
    CHECK("gs.indexed", trap.c.r[RDX], 44);
    CHECK("lea.ignores-base", trap.c.r[RSI], 13);
    CHECK("fs.add", words[3], 45);
    write_msr(MSR_FS_BASE, 0);
    write_msr(MSR_GS_BASE, 0);
}

static void test_fsgsbase(void)
{
    void *codes[] = { CODE("rdfsbase %rax"), CODE("rdgsbase %rax"), CODE("wrfsbase %rax"),
                      CODE("wrgsbase %rax"), CODE("rdfsbase %eax"), CODE("wrgsbase %eax") };
    u64 cr4 = read_cr4();
    int there = cpuid(7, 0).ebx & 1;
    EACH_CPL(cpl) {
        for (int i = 0; i < 6; i++) {
            char name[64];
            format_name(name, "fsgsbase.off%d", i);
            run_code(cpl, codes[i]);
            check_fault(at(name, cpl), codes[i], V_UD, 0);
        }
        if (!there)
            continue;
        write_cr4(cr4 | CR4_FSGSBASE);
        run_with(cpl, CODE("wrfsbase %rax; rdfsbase %rcx; wrgsbase %eax; rdgsbase %rdx"),
                 0xFFFF812345678000, 0, 0);
        CHECK(at("fsgsbase.fs", cpl), trap.c.r[RCX], 0xFFFF812345678000);
        CHECK(at("fsgsbase.fs-msr", cpl), read_msr(MSR_FS_BASE), 0xFFFF812345678000);
        CHECK(at("fsgsbase.gs32", cpl), trap.c.r[RDX], 0x45678000);
        run_with(cpl, CODE("mov $-1, %rax; rdfsbase %eax"), 0, 0, 0);
        CHECK(at("fsgsbase.rd32", cpl), trap.c.r[RAX], 0x45678000);
        void *bad = CODE("wrfsbase %rax");
        run_with(cpl, bad, 0x8000000000000000, 0, 0);
        check_fault(at("fsgsbase.non-canonical", cpl), bad, V_GP, 0);
        write_cr4(cr4);
        write_msr(MSR_FS_BASE, 0);
        write_msr(MSR_GS_BASE, 0);
    }
}

static struct { u32 offset; u16 selector; } PACKED far_pointer UDATA;

static void run_gate(int cpl, void *code, u16 selector)
{
    far_pointer.selector = selector;
    run_with(cpl, code, (u64)&far_pointer, 0, 0);
}

static void test_call_gates(void)
{
    void *target = CODE("mov %cs, %esi; mov %ss, %edi; mov %rsp, %rdx; mov (%rsp), %r8;"
                        "mov 8(%rsp), %r9; mov 16(%rsp), %r10; mov 24(%rsp), %r11; lretq");
    void *call = CODE("nop;" MARK "lcall *(%rax)" AFTER "mov %cs, %ecx");
    void *jump = CODE("ljmp *(%rax)");
    set_segment(CONFORMING, 0, 0xFFFFF, 0xA09F);
    set_call_gate(GATE, (u64)target, KCODE, 3);
    set_call_gate(GATE_DPL0, (u64)target, KCODE, 0);
    set_call_gate(GATE_SAME, (u64)target, UCODE, 3);
    set_call_gate(GATE_ABSENT, (u64)target, KCODE, 3);
    set_call_gate(GATE_CONF, (u64)target, CONFORMING, 3);
    gdt[GATE_ABSENT / 8] &= ~(1ul << 47);

    run_gate(3, call, GATE | 3);
    check_end("call-gate.inner", call);
    CHECK("call-gate.inner.cs", trap.c.r[RSI], KCODE);
    CHECK("call-gate.inner.ss", trap.c.r[RDI], 0);
    CHECK("call-gate.inner.rsp", trap.c.r[RDX], RSP0_TOP - 32);
    CHECK("call-gate.inner.saved-rip", trap.c.r[R8], code_after(call));
    CHECK("call-gate.inner.saved-cs", trap.c.r[R9], UCODE);
    CHECK("call-gate.inner.saved-rsp", trap.c.r[R10], USER_RSP);
    CHECK("call-gate.inner.saved-ss", trap.c.r[R11], UDATA_SEL);
    CHECK("call-gate.returned.cs", trap.c.r[RCX], UCODE);
    CHECK("call-gate.returned.rsp", trap.c.r[RSP], USER_RSP);
    CHECK("call-gate.returned.ss", trap.c.ss, UDATA_SEL);

    run_gate(3, call, GATE_SAME | 3);
    check_end("call-gate.same", call);
    CHECK("call-gate.same.cs", trap.c.r[RSI], UCODE);
    CHECK("call-gate.same.rsp", trap.c.r[RDX], USER_RSP - 16);
    CHECK("call-gate.same.saved-cs", trap.c.r[R9], UCODE);
    run_gate(0, call, GATE);
    check_end("call-gate.at-cpl0", call);
    CHECK("call-gate.at-cpl0.rsp", trap.c.r[RDX], KERNEL_RSP - 16);
    run_gate(3, call, GATE_CONF | 3);
    check_end("call-gate.conforming", call);
    CHECK("call-gate.conforming.cs", trap.c.r[RSI], CONFORMING | 3);

    run_gate(3, call, GATE_DPL0 | 3);
    check_fault("call-gate.dpl", call, V_GP, GATE_DPL0);
    run_gate(3, call, GATE_ABSENT | 3);
    check_fault("call-gate.not-present", call, V_NP, GATE_ABSENT);
    run_gate(0, call, GATE_SAME | 3);
    check_fault("call-gate.to-outer", call, V_GP, UCODE & ~3);
    run_gate(3, jump, GATE | 3);
    check_fault("call-gate.jmp-inner", jump, V_GP, KCODE);
    void *plain = CODE("mov %cs, %esi");
    set_call_gate(GATE_SAME, (u64)plain, UCODE, 3);
    run_gate(3, jump, GATE_SAME | 3);
    check_end("call-gate.jmp-same", plain);
    set_call_gate(GATE, (u64)target, FREE_SEL + 64, 3);
    set_segment(CONFORMING, 0, 0xFFFFF, 0xC09B);    /* not 64-bit code */
    run_gate(3, call, GATE | 3);
    check_fault("call-gate.to-32-bit", call, V_GP, CONFORMING);
    set_call_gate(GATE, (u64)target, KCODE, 3);
    gdt[GATE / 8 + 1] |= 0x0C0000000000;             /* type in the upper half must be 0 */
    run_gate(3, call, GATE | 3);
    check_fault("call-gate.upper-type", call, V_GP, GATE);
    set_call_gate(GATE, (u64)target, KCODE, 3);

    tss.rsp[0] = WINDOW;
    run_gate(3, call, GATE | 3);
    check_pf("call-gate.stack-unmapped", call, PF_W, WINDOW - 8);
    CHECK("call-gate.stack-unmapped.rsp", trap.c.r[RSP], USER_RSP);
    tss.rsp[0] = RSP0_TOP;
    /* RET n to the outer level drops n bytes of both stacks. */
    void *ret_n = CODE("pop %r8; pop %r9; pop %r10; pop %r11; push %r11; push %r10; sub $24, %rsp;"
                       "push %r9; push %r8; lretq $24");
    set_call_gate(GATE, (u64)ret_n, KCODE, 3);
    run_gate(3, call, GATE | 3);
    check_end("call-gate.ret-n", call);
    CHECK("call-gate.ret-n.rsp", trap.c.r[RSP], USER_RSP + 24);
}

void guest_main(void)
{
    saved_efer = read_msr(MSR_EFER);
    test_syscall();
    test_sysret();
    test_star();
    test_sysenter();
    test_swapgs();
    test_fsgsbase();
    test_call_gates();
}
