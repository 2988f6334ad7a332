/* Where the program begins without a C library. */
#include "agent.h"

void _start(void) __attribute__((naked));
void _start(void)
{
    __asm__ volatile("xor %ebp, %ebp\n"
                     "    mov %rsp, %rdi\n"
                     "    and $-16, %rsp\n"
                     "    call begin\n"
                     "    hlt\n");
}

void begin(long *stack) __attribute__((used, noreturn));
void begin(long *stack)
{
    char **arguments = (char **)(stack + 1);

    leave(agent_main((int)stack[0], arguments, arguments + stack[0] + 1));
}
