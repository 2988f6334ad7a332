/* What programs ask of the recorder. */
#include "guest.h"

struct trap trap;
int (*trap_hook)(struct trap *t);

_Static_assert(__builtin_offsetof(struct cpu, ss) == 152, "trap.S");
_Static_assert(__builtin_offsetof(struct trap, cr2) == 176, "trap.S");
_Static_assert(__builtin_offsetof(struct trap, count) == 216, "trap.S");

void unexpected_trap(const struct trap *t);

void unexpected_trap(const struct trap *t)
{
    print("FATAL vector %lu error 0x%lx rip 0x%lx cs 0x%lx rflags 0x%lx rsp 0x%lx cr2 0x%lx\n",
          t->vector, t->error, t->c.rip, t->c.cs, t->c.rflags, t->c.r[RSP], t->cr2);
    guest_exit(1);
}

u64 code_end(const void *code)
{
    return ((const u64 *)code)[-1];
}

u64 code_mark(const void *code)
{
    u64 mark = ((const u64 *)code)[-3];
    return mark > code_end(code) ? (u64)code : mark;
}

u64 code_after(const void *code)
{
    u64 after = ((const u64 *)code)[-2];
    return after > code_end(code) ? code_end(code) : after;
}

struct cpu at_cpl0(const void *code)
{
    struct cpu c = { .rip = (u64)code, .rflags = F_1, .cs = KCODE, .ss = KDATA };
    c.r[RSP] = KERNEL_RSP;
    return c;
}

struct cpu at_cpl3(const void *code)
{
    struct cpu c = { .rip = (u64)code, .rflags = F_1, .cs = UCODE, .ss = UDATA_SEL };
    c.r[RSP] = USER_RSP;
    return c;
}

struct cpu at_cpl(int cpl, const void *code)
{
    return cpl ? at_cpl3(code) : at_cpl0(code);
}

void run_code(int cpl, const void *code)
{
    run_with(cpl, code, 0, 0, 0);
}

void run_flags(int cpl, const void *code, u64 rflags)
{
    struct cpu c = at_cpl(cpl, code);
    c.rflags = rflags | F_1;
    run(&c);
}

void run_with(int cpl, const void *code, u64 rax, u64 rcx, u64 rdx)
{
    struct cpu c = at_cpl(cpl, code);
    c.r[RAX] = rax;
    c.r[RCX] = rcx;
    c.r[RDX] = rdx;
    run(&c);
}

void check_trap_at(const char *name, u64 rip, u64 vector, u64 error)
{
    if (trap.vector == vector && trap.error == error && trap.c.rip == rip)
        check_ok(name);
    else
        check_failed(name, "got vector %lu error 0x%lx rip 0x%lx cr2 0x%lx "
                     "want vector %lu error 0x%lx rip 0x%lx",
                     trap.vector, trap.error, trap.c.rip, trap.cr2, vector, error, rip);
}

void check_fault(const char *name, const void *code, u64 vector, u64 error)
{
    check_trap_at(name, code_mark(code), vector, error);
}

void check_end(const char *name, const void *code)
{
    check_trap_at(name, code_end(code) + 2, V_END, 0);
}

void check_pf(const char *name, const void *code, u64 error, u64 cr2)
{
    if (trap.vector == V_PF && trap.cr2 != cr2)
        check_failed(name, "got #PF error 0x%lx cr2 0x%lx want error 0x%lx cr2 0x%lx",
                     trap.error, trap.cr2, error, cr2);
    else
        check_fault(name, code, V_PF, error);
}
