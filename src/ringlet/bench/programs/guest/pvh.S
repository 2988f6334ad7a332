/* The PVH entry (Xen's "direct boot"): 32-bit protected mode, paging off.  It sets up the state
 * that the bare machine gives: long mode, the first 4 GiB identity-mapped by 2-MiB pages, a stack.
 * Then it jumps to the entry point as any loader would. */
#include "layout.h"

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                      /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_start

    .section .ktext, "ax"
    .code32
pvh_start:
    cli
    cld
    mov $pvh_tables, %edi               /* PML4, PDPT, then four page directories */
    lea 0x1003(%edi), %eax
    mov %eax, (%edi)
    mov $4, %ecx
    lea 0x1000(%edi), %esi
    lea 0x2003(%edi), %eax
1:  mov %eax, (%esi)
    add $8, %esi
    add $0x1000, %eax
    dec %ecx
    jnz 1b
    lea 0x2000(%edi), %esi
    mov $0x83, %eax                     /* present, writable, 2 MiB */
    mov $2048, %ecx
1:  mov %eax, (%esi)
    add $8, %esi
    add $0x200000, %eax
    dec %ecx
    jnz 1b

    mov %cr4, %eax
    or $0x20, %eax                      /* PAE */
    mov %eax, %cr4
    mov %edi, %cr3
    mov $0xc0000080, %ecx               /* EFER.LME */
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax                /* PG, PE */
    mov %eax, %cr0
    lgdt pvh_gdt_register
    ljmp $0x08, $pvh_long

    .code64
pvh_long:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $pvh_stack_top, %esp
    jmp bare_start

    .section .kdata, "aw"
    .balign 8
pvh_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* 64-bit code */
    .quad 0x00cf93000000ffff            /* data */
pvh_gdt_register:
    .word . - pvh_gdt - 1
    .long pvh_gdt

    .section .kbss, "aw", @nobits
    .balign 4096
pvh_tables:
    .skip 6 * 4096
    .skip 512
pvh_stack_top:
