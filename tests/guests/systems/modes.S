# From real mode to 16- and 32-bit protected mode, PAE paging, compatibility mode and 64-bit mode,
# and all the way back, three times (SDM 3A 4.1.2, 10.8.5, 10.9).  In each mode INT 30h comes and
# returns through that mode's own kind of table, and prints a *.

        .set TABLES, 0x10000
        .code16
start:  cli
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7000, %sp
        movl $int30_real, 0x30 * 4
        mov $TABLES / 16, %ax           # PDPT (also of IA-32e mode), its directory, PML4
        mov %ax, %es
        xor %di, %di
        xor %eax, %eax
        mov $0x3000 / 4, %cx
        rep stosl
        movl $TABLES + 0x1001, %es:0    # P alone: a PDPTE of PAE paging has no R/W and U/S
        movl $0x83, %es:0x1000
        movl $0x200083, %es:0x1008
        movl $TABLES + 0x0003, %es:0x2000
        mov $0x1234, %bx                # BX and EBP pass through all modes
        mov $0x89ABCDEF, %ebp

real:   say16 "real"
        call cr0_16
        int $0x30
        lgdtl gdtr
        lidtl idtr
        mov %cr0, %eax
        or $1, %eax
        mov %eax, %cr0
        say16 " with PE"                # CS is still a paragraph
        call cr0_16
        ljmp $0x18, $protected16
protected16:
        mov $0x20, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        say16 "\n 16-bit"
        call cr0_16
        int $0x30
        ljmpl $0x08, $protected32

        .code32
protected32:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %ss
        mov %eax, %fs
        say32 "\n 32-bit"
        call cr0_32
        int $0x30
        mov %cr4, %eax
        or $0x20, %eax
        mov %eax, %cr4
        mov $TABLES, %eax
        mov %eax, %cr3
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
        movl $0x600D0000, 0x200000
        say32 "\n PAE"
        call cr0_32
        int $0x30
        mov %cr0, %eax
        and $0x7FFFFFFF, %eax
        mov %eax, %cr0

        movl $TABLES + 0x1003, TABLES   # in IA-32e mode R/W must be set, too
        mov $TABLES + 0x2000, %eax
        mov %eax, %cr3
        mov $0xC0000080, %ecx
        rdmsr
        or $0x100, %eax                 # LME
        wrmsr
        mov %cr0, %eax
        or $0x80000000, %eax
        mov %eax, %cr0
        lidtl wide_idtr
        say32 "\n compatibility, EFER "
        rdmsr
        and $0x500, %eax
        call hex32
        int $0x30
        ljmp $0x28, $long

        .code64
long:   mov $0xFEDCBA9876543210, %rax
        mov %rax, %r15
        lea in_long(%rip), %rsi
        call say64
        mov %r15, %rax
        bswap %rax
        cmp $0x98BADCFE, %eax           # of the upper half
        setne %al
        add $'0', %al
        call put64
        int $0x30
        mov $0x7000, %esp
        pushq $0x08
        mov $compatible, %eax
        push %rax
        lretq
say64:  lodsb
        test %al, %al
        jz 1f
        call put64
        jmp say64
1:      ret
int30_wide:
        push %rax
        mov $'*', %al
        call put64
        pop %rax
        iretq
put64:  push %rdx
        push %rax
        mov $0x3FD, %edx
1:      in (%dx), %al
        test $0x20, %al
        jz 1b
        pop %rax
        mov $0x3F8, %edx
        out %al, (%dx)
        pop %rdx
        ret
in_long:
        .asciz "\n 64-bit "

        .code32
compatible:
        say32 "\n compatibility"
        call cr0_32
        int $0x30
        mov %cr0, %eax
        and $0x7FFFFFFF, %eax
        mov %eax, %cr0
        mov $0xC0000080, %ecx
        rdmsr
        say32 ", then EFER "
        and $0x500, %eax                # LME alone
        call hex32
        and $~0x100, %eax
        xor %edx, %edx
        wrmsr
        mov %cr4, %eax
        and $~0x20, %eax
        mov %eax, %cr4
        movl $TABLES + 0x1001, TABLES
        lidtl idtr
        int $0x30
        ljmp $0x18, $back16

        .code16
back16: mov $0x20, %ax                  # limits of 64 KiB, but FS keeps 4 GiB
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        int $0x30
        mov %cr0, %eax
        and $~1, %eax
        mov %eax, %cr0
        ljmp $0, $back
back:   xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov %ax, %fs
        lidtw real_idtr
        say16 "\n real again, "
        mov $0x200000, %esi
        mov %fs:2(%esi), %ax
        call hex16
        addr32 movw $0, %fs:2(%esi)
        int $0x30
        mov %bx, %ax
        say16 " "
        call hex16
        mov %bp, %ax
        call hex16
        say16 "\n"
        decb count
        jnz real
        finish

cr0_16: mov %cr0, %eax
        and $1, %ax
        say16 " "
        call hex16
        ret
int30_real:
        push %ax
        mov $'*', %al
        call put16
        pop %ax
        iret

        .code32
cr0_32: mov %cr0, %eax
        and $0x80000001, %eax
        say32 " "
        call hex32
        ret
int30:  push %eax
        mov $'*', %al
        call put32
        pop %eax
        iret

        console32
        .code16
        console16

count:  .byte 3
        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
        .quad 0x00009B000000FFFF, 0x000093000000FFFF, 0x00AF9B000000FFFF
gdtr:   .word . - gdt - 1
        .long gdt
        .balign 8
idt:    .fill 0x30, 8, 0
        .word int30, 0x08, 0x8E00, 0
idtr:   .word . - idt - 1
        .long idt
        .balign 8
wide:   .fill 0x30 * 2, 8, 0
        .word int30_wide, 0x28, 0x8E00, 0, 0, 0, 0, 0
wide_idtr:
        .word . - wide - 1
        .long wide
real_idtr:
        .word 0x3FF
        .long 0
