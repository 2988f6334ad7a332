/* Writes of CR0 and CR4 that fault: nothing changes (SDM 3A 2.5, 4.1.1). */
#include "narrow.h"

void guest_main(void)
{
    struct code to_cr0 = CODE32(MARK "mov %eax, %cr0");
    u32 before, after;
    asm volatile("mov %%cr0, %0" : "=r"(before));
    in_flat(0, to_cr0);
    in.eax = 0x80000010;                        /* PG without PE */
    run();
    check_fault("cr0.pg-without-pe", V_GP, 0);
    in_flat(0, to_cr0);
    in.eax = 0x20000011;                        /* NW without CD */
    run();
    check_fault("cr0.nw-without-cd", V_GP, 0);
    struct code to_cr4 = CODE32(MARK "mov %eax, %cr4");
    in_flat(0, to_cr4);
    in.eax = 0x80000000;
    run();
    check_fault("cr4.reserved", V_GP, 0);
    in_flat(3, to_cr0);
    run();
    check_fault("cr0.cpl3", V_GP, 0);
    asm volatile("mov %%cr0, %0" : "=r"(after));
    check("cr0.kept", after, before);
}
