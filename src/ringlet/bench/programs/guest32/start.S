/* The entry of the 32-bit guest, the entries to its kernel, and the switch to ring 3.
 *
 * The bare machine and PVH (Xen's "direct boot") enter in the same state: protected mode, flat
 * segments, no paging. */
#include "kernel.h"

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                      /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long bare_start

    .section .ktext, "ax"
    .globl bare_start
bare_start:
    cli
    cld
    mov $kernel_stack_top, %esp
    xor %ebp, %ebp
    call kernel_init
    mov $USER_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    push $USER_DATA
    push $user_stack_top
    push $0x202                         /* IF */
    push $USER_CODE
    push $user_entry
    iret

/* Loads GDTR, IDTR, the segment registers and TR. */
    .globl load_descriptors
load_descriptors:
    mov 4(%esp), %eax
    lgdt (%eax)
    mov 8(%esp), %eax
    lidt (%eax)
    mov $KERNEL_DATA, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $TASK, %eax
    ltr %ax
    ljmp $KERNEL_CODE, $1f
1:  ret

/* A system call: the number in EAX, arguments in EBX, ECX and EDX. */
    .balign 64
    .globl int80_entry
int80_entry:
    push %edx
    push %ecx
    push %ebx
    push %eax
    cld
    call kernel_syscall
    add $4, %esp
    pop %ebx
    pop %ecx
    pop %edx
    iret

#define VECTORS 32
#include "../bare/stubs.h"

exception:
    mov %esp, %eax                      /* vector, error code, EIP, CS, EFLAGS, ESP, SS */
    cld
    push %eax
    call kernel_panic

    .section .kbss, "aw", @nobits
    .balign 16
    .skip 16384
    .globl kernel_stack_top
kernel_stack_top:

    .section .bss
    .balign 4096
    .skip 262144
user_stack_top:
