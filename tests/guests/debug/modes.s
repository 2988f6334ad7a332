# A boot sector and what follows it: real mode, protected mode, 64-bit mode, compatibility mode,
# and back to real mode.  gdb stops at its symbols, which are linear addresses.

        .code16
        .globl start
start:                                  # at 07C0:0000
        mov $0x1111, %ax
        call real_function
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7000, %sp
        lgdtl gdtr
        mov $0x11, %eax
        mov %eax, %cr0
to_protected:
        ljmpl $0x08, $protected
real_function:
        mov $0x2222, %bx
        ret

        .code32
protected:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $0x7000, %esp
        call middle
        movl $0x11003, 0x10000          # the first 2 MiB are mapped
        movl $0x12003, 0x11000
        movl $0x83, 0x12000
        mov $0x20, %eax
        mov %eax, %cr4
        mov $0x10000, %eax
        mov %eax, %cr3
        mov $0xC0000080, %ecx           # EFER.LME
        mov $0x100, %eax
        xor %edx, %edx
        wrmsr
        mov $0x80000011, %eax
        mov %eax, %cr0
to_long:
        ljmp $0x18, $sixty_four

        .code64
sixty_four:
        mov $0x123456789ABCDEF0, %rax
        mov %rax, %r15
        pushq $0x08
        pushq $compatible
        lretq

        .code32
compatible:
        mov $0x7000, %esp
        call middle
to_sixty_four_again:
        ljmp $0x18, $sixty_four_again

        .code64
sixty_four_again:
        mov $0x7000, %esp
        pushq $0x08
        pushq $leaves
        lretq

        .code32
leaves:
        mov $0x11, %eax
        mov %eax, %cr0
        ljmp $0x20, $sixteen

        .code16
sixteen:
        mov $0x28, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x10, %eax
        mov %eax, %cr0
        ljmp $0x07C0, $(real_again - start)
real_again:
        mov $2, %al
        out %al, $0xf4
        hlt

        .code32
        .type middle, @function
middle:
        push %ebp
        mov %esp, %ebp
        push $7
        call leaf
        leave
        ret
        .size middle, . - middle
        .type leaf, @function
leaf:
        push %ebp
        mov %esp, %ebp
        mov 8(%ebp), %ecx
        mov %ecx, counter
        pop %ebp
        ret
        .size leaf, . - leaf

        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF
        .quad 0x00009B000000FFFF, 0x000093000000FFFF
gdtr:   .word gdtr - gdt - 1
        .long gdt
        .type counter, @object
counter:
        .long 0
        .size counter, 4
