/* Accesses over a page boundary of which one side faults: CR2 is the first byte refused, and
   nothing at all has changed, in memory or registers; so too for instructions that read and write. */
#include "guest.h"

static const u64 first = WINDOW + 0xC0000000, second = WINDOW + 0xC0001000;
static const u64 frame = FREE_RAM;      /* both pages, one after the other */
enum { FILL = 0x5A };

struct access {
    const char *name;
    void *code;
    u16 bytes;
    i16 offset;      /* of the access from RAX */
    u8 write;
};

static int untouched(void)
{
    for (u64 i = 0; i < 8192; i++)
        if (((u8 *)frame)[i] != FILL)
            return 0;
    return 1;
}

static struct cpu registers(int cpl, const void *code, u64 address)
{
    struct cpu c = at_cpl(cpl, code);
    for (int i = 0; i < 16; i++)
        if (i != RSP)
            c.r[i] = 0x1111111111111111 * (u64)i;
    c.r[RAX] = address;
    c.r[RCX] = 3;
    c.r[RSI] = (u64)user_stack + 64;
    c.r[RDI] = address;
    c.rflags = F_1 | F_CF | F_PF | F_SF | F_OF;
    return c;
}

static int same_registers(const struct cpu *c)
{
    for (int i = 0; i < 16; i++)
        if (trap.c.r[i] != c->r[i])
            return 0;
    return 1;
}

static void fault_check(const char *name, const struct access *a, int cpl, u64 address, u64 error,
                        u64 cr2)
{
    memset((void *)frame, FILL, 8192);
    struct cpu c = registers(cpl, a->code, address - (u64)(i64)a->offset);
    run(&c);
    check_pf(at(name, cpl), a->code, error, cr2);
    CHECK(at(with(name, "memory"), cpl), untouched(), 1);
    CHECK(at(with(name, "registers"), cpl), same_registers(&c), 1);
    CHECK(at(with(name, "flags"), cpl), trap.c.rflags & ~(u64)F_RF, c.rflags);
}

static void access_checks(const struct access *a)
{
    u64 write = a->write ? PF_W : 0;
    EACH_CPL(cpl) {
        u64 base = write | (cpl ? PF_U : 0);
        char name[64];
        u64 address = second - a->bytes / 2;
        map4k(first, frame, P_P | P_W | P_U);
        map4k(second, frame + 4096, 0);
        format_name(name, "crossing.%s.second-absent", a->name);
        fault_check(name, a, cpl, address, base, second);
        map4k(second, frame + 4096, P_P | P_W | P_U);
        map4k(first, frame, 0);
        format_name(name, "crossing.%s.first-absent", a->name);
        fault_check(name, a, cpl, address, base, address);
        if (write) {
            map4k(first, frame, P_P | P_W | P_U);
            map4k(second, frame + 4096, P_P | P_U);
            format_name(name, "crossing.%s.second-read-only", a->name);
            fault_check(name, a, cpl, address, base | PF_P, second);
        }
        if (cpl) {
            map4k(first, frame, P_P | P_W | P_U);
            map4k(second, frame + 4096, P_P | P_W);
            format_name(name, "crossing.%s.second-supervisor", a->name);
            fault_check(name, a, cpl, address, base | PF_P, second);
        }
        map4k(first, frame, P_P | P_W | P_U);
        map4k(second, frame + 4096, P_P | P_W | P_U);
        struct cpu c = registers(cpl, a->code, address - (u64)(i64)a->offset);
        run(&c);
        format_name(name, "crossing.%s.both-there", a->name);
        check_end(at(name, cpl), a->code);
    }
}

static void test_data(void)
{
    const struct access accesses[] = {
        { "load2", CODE(MARK "mov (%rax), %bx"), 2, 0, 0 },
        { "load4", CODE(MARK "mov (%rax), %ebx"), 4, 0, 0 },
        { "load8", CODE(MARK "mov (%rax), %rbx"), 8, 0, 0 },
        { "movups", CODE(MARK "movups (%rax), %xmm0"), 16, 0, 0 },
        { "fld80", CODE("fninit;" MARK "fldt (%rax)"), 10, 0, 0 },
        { "add-from", CODE(MARK "add (%rax), %rbx"), 8, 0, 0 },
        { "imul", CODE(MARK "imul (%rax), %rdx"), 8, 0, 0 },
        { "movzx", CODE(MARK "movzwl (%rax), %r9d"), 2, 0, 0 },
        { "movbe", CODE(MARK "movbe (%rax), %r11"), 8, 0, 0 },
        { "store2", CODE(MARK "mov %bx, (%rax)"), 2, 0, 1 },
        { "store4", CODE(MARK "movl $7, (%rax)"), 4, 0, 1 },
        { "store8", CODE(MARK "mov %r10, (%rax)"), 8, 0, 1 },
        { "movups-store", CODE(MARK "movups %xmm0, (%rax)"), 16, 0, 1 },
        { "fst64", CODE("fninit; fld1;" MARK "fstpl (%rax)"), 8, 0, 1 },
        { "stos", CODE(MARK "stosq"), 8, 0, 1 },
        { "scas", CODE(MARK "scasq"), 8, 0, 0 },
        { "movs", CODE(MARK "movsq"), 8, 0, 1 },
        { "add-to-rmw", CODE(MARK "add %rbx, (%rax)"), 8, 0, 1 },
        { "not-rmw", CODE(MARK "notl (%rax)"), 4, 0, 1 },
        { "shl-rmw", CODE(MARK "shlq %cl, (%rax)"), 8, 0, 1 },
        { "lock-xadd-rmw", CODE(MARK "lock xadd %r8, (%rax)"), 8, 0, 1 },
        { "xchg-rmw", CODE(MARK "xchg %rbx, (%rax)"), 8, 0, 1 },
        { "cmpxchg-rmw", CODE(MARK "cmpxchg %rbx, (%rax)"), 8, 0, 1 },
        { "bts-rmw", CODE(MARK "btsq $63, (%rax)"), 8, 0, 1 },
        { "adc-disp-rmw", CODE(MARK "adcq $1, 0x40(%rax)"), 8, 0x40, 1 },
        { "xadd-disp8-rmw", CODE(MARK "xadd %r9, -8(%rax)"), 8, -8, 1 },
        { "sar-disp32-rmw", CODE(MARK "sarq $3, 0x1000(%rax)"), 8, 0x1000, 1 },
    };
    for (u64 i = 0; i < sizeof accesses / sizeof *accesses; i++)
        access_checks(&accesses[i]);
    if (cpuid(1, 0).ecx & 1 << 28) {
        const struct access ymm[] = {
            { "vmovups", CODE(MARK "vmovups (%rax), %ymm1"), 32, 0, 0 },
            { "vmovups-store", CODE(MARK "vmovups %ymm1, (%rax)"), 32, 0, 1 },
            { "vaddps", CODE(MARK "vaddps (%rax), %ymm1, %ymm2"), 32, 0, 0 },
        };
        for (int i = 0; i < 3; i++)
            access_checks(&ymm[i]);
    }
}

/* Pushes store below RSP and pops read above it: RSP must be as before the fault. */
static void stack_check(const char *name, void *code, u64 rsp, u64 error, u64 cr2)
{
    EACH_CPL(cpl) {
        memset((void *)frame, FILL, 8192);
        struct cpu c = registers(cpl, code, first + 0x100);
        c.r[RSP] = rsp;
        c.r[RBP] = rsp;
        run(&c);
        check_pf(at(with("stack", name), cpl), code, error | (cpl ? PF_U : 0), cr2);
        CHECK(at(with("stack-memory", name), cpl), untouched(), 1);
        CHECK(at(with("stack-registers", name), cpl), same_registers(&c), 1);
        CHECK(at(with("stack-flags", name), cpl), trap.c.rflags & ~(u64)F_RF, c.rflags);
    }
}

static void test_stack(void)
{
    map4k(first, frame, P_P | P_W | P_U);
    map4k(second, frame + 4096, 0);
    stack_check("push-crossing", CODE("push %rbx"), second + 4, PF_W, second);
    stack_check("push-above", CODE("push %rbx"), second + 0x100, PF_W, second + 0xF8);
    stack_check("push-imm", CODE("push $-1"), second + 12, PF_W, second + 4);
    stack_check("pushw", CODE("pushw %bx"), second + 1, PF_W, second);
    stack_check("pushf", CODE("pushfq"), second + 4, PF_W, second);
    stack_check("push-mem", CODE("push (%rax)"), second + 4, PF_W, second);
    stack_check("call", CODE("call 1f; 1:"), second + 4, PF_W, second);
    stack_check("call-reg", CODE("call *%rax"), second + 4, PF_W, second);
    stack_check("call-mem", CODE("call *(%rsi)"), second + 4, PF_W, second);
    stack_check("pop", CODE("pop %rbx"), second - 4, 0, second);
    stack_check("pop-rsp", CODE("pop %rsp"), second - 4, 0, second);
    stack_check("popf", CODE("popfq"), second - 4, 0, second);
    stack_check("pop-mem", CODE("pop (%rax)"), second - 4, 0, second);
    stack_check("ret", CODE("ret"), second - 4, 0, second);
    stack_check("ret-imm", CODE("ret $16"), second - 4, 0, second);
    stack_check("leave", CODE("leave"), second - 4, 0, second);
    stack_check("pop-fs", CODE("pop %fs"), second, 0, second);

    /* The stack is good, the memory operand is not. */
    stack_check("push-bad-source", CODE("push 0x1000(%rax)"), first + 0x800, 0, second + 0x100);
    stack_check("pop-bad-target", CODE("pop 0x1000(%rax)"), first + 0x800, PF_W, second + 0x100);
    stack_check("pop-target-by-new-rsp", CODE("pop 0x7F8(%rsp)"), first + 0x800, PF_W, second);
    stack_check("call-bad-source", CODE("call *0x1000(%rax)"), first + 0x800, 0, second + 0x100);
    stack_check("xchg-rmw", CODE("xchg %rsp, 0x1000(%rax)"), first + 0x800, PF_W, second + 0x100);
    /* ENTER touches the last byte of the frame it makes, and changes nothing if it may not. */
    map4k(first - 0x1000, frame, 0);
    stack_check("enter", CODE("enter $0, $0"), first + 4, PF_W, first - 4);
}

/* Instructions that lie over the boundary, and jumps to a page that is not there. */
static void test_fetch(void)
{
    EACH_CPL(cpl) {
        u64 user = cpl ? PF_U : 0;
        map4k(first, frame, P_P | P_W | P_U);
        map4k(second, frame + 4096, 0);
        memset((void *)frame, 0x90, 8192);
        u8 mov[10] = { 0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8 };
        for (u64 split = 1; split < 10; split++) {
            char name[64];
            memset((void *)(frame + 4096 - 16), 0x90, 16);
            memcpy((void *)(frame + 4096 - split), mov, 10);
            ((u8 *)frame)[4096 + 10 - split] = 0xCD;
            ((u8 *)frame)[4096 + 11 - split] = 0x81;
            run_code(cpl, (void *)(second - split - 3));
            format_name(name, "fetch.split%lu", split);
            check_trap_at(at(name, cpl), second - split, V_PF, PF_I | user);
            CHECK(at(with(name, "cr2"), cpl), trap.cr2, second);
            CHECK(at(with(name, "rax"), cpl), trap.c.r[RAX], 0);
            map4k(second, frame + 4096, P_P | P_U);
            run_code(cpl, (void *)(second - split - 3));
            CHECK(at(with(name, "whole"), cpl), trap.c.r[RAX], 0x0807060504030201);
            map4k(second, frame + 4096, 0);
        }
        /* Falling off the page's end after whole instructions. */
        memset((void *)frame, 0x90, 4096);
        run_code(cpl, (void *)(second - 5));
        check_trap_at(at("fetch.fall-through", cpl), second, V_PF, PF_I | user);
        CHECK(at("fetch.fall-through.cr2", cpl), trap.cr2, second);
        map4k(second, frame + 4096, P_P | P_W | P_U | P_NX);
        run_code(cpl, (void *)(second - 5));
        check_trap_at(at("fetch.into-nx", cpl), second, V_PF, PF_P | PF_I | user);
        map4k(second, frame + 4096, 0);

        void *jumps[] = { CODE("jmp *%rax"), CODE("push %rax; ret"), CODE("call *%rax"),
                          CODE("push %rax; jmp *(%rsp)") };
        u64 rsp = cpl ? USER_RSP : KERNEL_RSP, moved[] = { 0, 0, 8, 8 };
        for (int i = 0; i < 4; i++) {
            char name[64];
            run_with(cpl, jumps[i], second + 0x123, 0, 0);
            format_name(name, "fetch.jump%d", i);
            check_trap_at(at(name, cpl), second + 0x123, V_PF, PF_I | user);
            CHECK(at(with(name, "cr2"), cpl), trap.cr2, second + 0x123);
            CHECK(at(with(name, "rsp"), cpl), trap.c.r[RSP], rsp - moved[i]);
        }
        run_with(cpl, jumps[0], 0x0000900000000000, 0, 0);
        check_fault(at("fetch.non-canonical-jmp", cpl), jumps[0], V_GP, 0);
        void *ret = CODE("push %rax;" MARK "ret");
        run_with(cpl, ret, 0x8000000000000000, 0, 0);
        check_fault(at("fetch.non-canonical-ret", cpl), ret, V_GP, 0);
        CHECK(at("fetch.non-canonical-ret.rsp", cpl), trap.c.r[RSP], rsp - 8);
        run_with(cpl, jumps[2], 0x8000000000000000, 0, 0);
        check_fault(at("fetch.non-canonical-call", cpl), jumps[2], V_GP, 0);
        CHECK(at("fetch.non-canonical-call.rsp", cpl), trap.c.r[RSP], rsp);
    }
}

void guest_main(void)
{
    *(u64 *)(user_stack + 64) = (u64)CODE("nop");
    test_data();
    test_stack();
    test_fetch();
}
