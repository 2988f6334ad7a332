/* The support library itself: output, a snippet at each privilege, a fault and its record. */
#include "guest.h"

void guest_main(void)
{
    print("hello from a bare guest\n");
    CHECK("hello.one", 1, 1);

    void *add = CODE("lea (%rax,%rcx), %rdx");
    run_with(0, add, 40, 2, 0);
    check_end("hello.cpl0.end", add);
    CHECK("hello.cpl0.result", trap.c.r[RDX], 42);
    CHECK("hello.cpl0.cs", trap.c.cs, KCODE);

    run_with(3, add, 1, 2, 0);
    check_end("hello.cpl3.end", add);
    CHECK("hello.cpl3.result", trap.c.r[RDX], 3);
    CHECK("hello.cpl3.cs", trap.c.cs, UCODE);
    CHECK("hello.cpl3.ss", trap.c.ss, UDATA_SEL);

    void *bad = CODE("nop" MARK "ud2");
    run_code(0, bad);
    check_fault("hello.ud.cpl0", bad, V_UD, 0);
    run_code(3, bad);
    check_fault("hello.ud.cpl3", bad, V_UD, 0);

    void *load = CODE("nop" MARK "mov (%rax), %rcx");
    run_with(3, load, 0x200000, 0, 0);
    check_pf("hello.pf.supervisor-page", load, PF_P | PF_U, 0x200000);
}
