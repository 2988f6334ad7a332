/* The run-time layer in ring 3 of the bare guest. */
#include "rt.h"

const int rt_is_guest = 1;

_Noreturn void rt_exit(int status)
{
    for (;;)
        rt_syscall(SYS_EXIT, status, 0, 0);
}

_Noreturn void user_main(void)
{
    rt_printf("mark %" L64 "u\n", rt_tsc());
    int status = program_main();
    rt_printf("mark %" L64 "u\n", rt_tsc());
    rt_exit(status);
}

__asm__(".globl user_entry\nuser_entry: xor %ebp, %ebp\n call user_main\n");
