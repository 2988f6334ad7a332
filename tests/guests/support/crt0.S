/* Entry of every guest program: an own stack, then the C start. */
    .globl _start
_start:
    cli
    cld
    lea     boot_stack_top(%rip), %rsp
    xor     %ebp, %ebp
    call    guest_start
1:  hlt
    jmp     1b

    .bss
    .balign 16
    .skip   32768
boot_stack_top:
    .section .note.GNU-stack, "", @progbits
