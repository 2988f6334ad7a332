/* The bare entry, the entries to the kernel, and the switch to ring 3.
 *
 * The kernel is linked at its load address, runs at KERNEL_BASE above that, and uses only
 * RIP-relative addresses. */
#include "layout.h"

    .section .ktext, "ax"
    .globl bare_start
bare_start:
    cli
    cld
    lea kernel_stack_top(%rip), %rsp
    xor %ebp, %ebp

    mov $0xc0000080, %ecx               /* EFER: SCE, NXE */
    rdmsr
    or $0x801, %eax
    wrmsr
    call kernel_tables                  /* returns the guest physical address of the PML4 */
    mov %rax, %cr3
    mov $KERNEL_BASE, %rbx
    lea 1f(%rip), %rax
    add %rbx, %rax
    jmp *%rax

1:  add %rbx, %rsp
    mov %cr0, %rax
    and $~0xc, %rax                     /* EM, TS */
    or $0x10022, %rax                   /* WP, NE, MP */
    mov %rax, %cr0
    mov %cr4, %rax
    or $0x600, %rax                     /* OSFXSR, OSXMMEXCPT */
    mov %rax, %cr4
    mov $1, %eax
    cpuid
    bt $26, %ecx                        /* XSAVE */
    jnc 3f
    mov %cr4, %rax
    or $0x40000, %rax                   /* OSXSAVE */
    mov %rax, %cr4
    mov $3, %eax                        /* XCR0: x87, SSE, and AVX if there */
    bt $28, %ecx
    jnc 2f
    mov $7, %eax
2:  xor %ecx, %ecx
    xor %edx, %edx
    xsetbv
3:  fninit
    push $0x1f80
    ldmxcsr (%rsp)
    pop %rax

    call kernel_init                    /* GDT, IDT, TSS, system call MSRs, devices */

    push $USER_DATA
    push $user_stack_top
    push $0x202                         /* IF */
    push $USER_CODE
    push $user_entry
    xor %eax, %eax
    iretq

/* Loads GDTR from (%rdi), the segment registers and TR. */
    .globl load_segments
load_segments:
    lgdt (%rdi)
    mov $KERNEL_DATA, %eax
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov $TASK, %eax
    ltr %ax
    pop %rax
    push $KERNEL_CODE
    push %rax
    lretq

    .balign 64
    .globl syscall_entry
syscall_entry:
    cmp $SYSCALL_NULL, %eax
    je 1f
    mov %rsp, user_rsp(%rip)
    lea kernel_stack_top(%rip), %rsp
    push %rcx
    push %r11
    push %rdi
    push %rsi
    push %rdx
    push %r8
    push %r9
    push %r10
    mov %rdx, %rcx
    mov %rsi, %rdx
    mov %rdi, %rsi
    mov %rax, %rdi
    call kernel_syscall
    pop %r10
    pop %r9
    pop %r8
    pop %rdx
    pop %rsi
    pop %rdi
    pop %r11
    pop %rcx
    mov user_rsp(%rip), %rsp
    sysretq
1:  mov $1, %eax
    sysretq

    .balign 64
    .globl int80_entry
int80_entry:
    iretq

    .balign 64
    .globl timer_entry
timer_entry:
    push %rax
    push %rcx
    push %rdx
    incq timer_count(%rip)
    xor %eax, %eax                      /* end of interrupt */
    mov apic_page(%rip), %rdx
    test %rdx, %rdx
    jz 1f
    mov %eax, 0xb0(%rdx)
    jmp 2f
1:  mov $0x80b, %ecx
    wrmsr
2:  pop %rdx
    pop %rcx
    pop %rax
    iretq

    .balign 64
    .globl divide_entry
divide_entry:
    cmpl $0, divide_skip(%rip)
    je 1f
    push %rax
    mov divide_skip(%rip), %eax
    add %rax, 8(%rsp)
    pop %rax
    iretq
1:  push $0
    push $0
    jmp exception

    .balign 64
    .globl page_fault_entry
page_fault_entry:
    push %rax
    push %rcx
    mov %cr2, %rax
    sub fault_start(%rip), %rax
    cmp fault_bytes(%rip), %rax
    jae 1f
    shr $12, %rax
    mov fault_entries(%rip), %rcx
    orq $1, (%rcx,%rax,8)               /* present */
    pop %rcx
    pop %rax
    add $8, %rsp                        /* the error code */
    iretq
1:  pop %rcx
    pop %rax
    push $14
    jmp exception

#define VECTORS 48
#include "../bare/stubs.h"

exception:
    mov %rsp, %rdi                      /* vector, error code, RIP, CS, RFLAGS, RSP, SS */
    cld
    and $-16, %rsp
    call kernel_panic

    .section .kbss, "aw", @nobits
    .balign 16
    .skip 16384
    .globl kernel_stack_top
kernel_stack_top:
    .globl user_rsp, timer_count, fault_start, fault_bytes, fault_entries, divide_skip
user_rsp:
    .skip 8
timer_count:
    .skip 8
fault_start:
    .skip 8
fault_bytes:
    .skip 8
fault_entries:
    .skip 8
divide_skip:
    .skip 8

    .section .bss
    .balign 4096
    .skip 262144
user_stack_top:
