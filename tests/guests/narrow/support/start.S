/* The entry, from `ringlet run --bare` or by Multiboot 1, and the tasks of the exceptions. */
        .section .head, "ax"
        .balign 4
        .long 0x1BADB002, 0, -0x1BADB002
        .globl _start
_start: cli
        lgdt gdtr
        lidt idtr
        ljmp $0x08, $1f
1:      mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov %eax, %fs
        mov %eax, %gs
        mov $stack_end, %esp
        mov $0xFF, %al
        out %al, $0x21
        out %al, $0xA1
        call start
        hlt

        .text
        .globl handlers, handler_tss
handlers:                               /* one of 16 bytes for each vector */
        .set i, 0
        .rept 33
        .balign 16
        mov $i, %ebx
        jmp taken
        .set i, i + 1
        .endr
taken:  cmp $32, %ebx
        jne 1f
        mov $0x81, %ebx
1:      mov %ebx, vector
        movl $0, error
        cmp $32, %ebx
        ja 1f
        mov $0x00027D00, %eax           /* the vectors with an error code */
        bt %ebx, %eax
        jnc 1f
        pop %eax
        mov %eax, error
1:      mov %cr2, %eax
        mov %eax, cr2
        clts
        str %eax
        sub $0x400, %eax
        imul $13, %eax                  /* 104 bytes for each, 8 in the GDT */
        movzwl handler_tss(%eax), %eax
        mov %eax, link
        cmp $0x18, %eax
        je 2f
        ljmp $0x18, $0
2:      orl $0x100, vector              /* the kernel's LJMP did not reach the task */
        addl $7, kernel_tss + 32
        iret

        .data
        .globl gdt, idt
        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
        .fill 0xFD, 8, 0
idt:    .fill 256, 8, 0
gdtr:   .word 0x7FF
        .long gdt
idtr:   .word 0x7FF
        .long idt
        .bss
        .balign 16
handler_tss:
        .skip 33 * 104
        .skip 0x4000
stack_end:
        .section .note.GNU-stack, "", @progbits
