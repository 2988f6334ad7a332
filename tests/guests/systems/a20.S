# The gate of A20 (port 92h): while it is closed, bit 20 of physical addresses is 0, for data and
# for code, in real mode and in protected mode without paging.

        .code16
start:  cli
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x7000, %sp
        mov $0xFFFF, %ax
        mov %ax, %es
        lgdtl gdtr

        call open
        movw $0x1111, 0x600
        movw $0x2222, %es:0x610         # 100600h
        movw $0xAAB8, 0x700             # MOV AX, xxAAh; RET far
        movw $0xCBAA, 0x702
        movw $0xBBB8, %es:0x710
        movw $0xCBBB, %es:0x712
        say16 "open: "
        call look
        call shut
        say16 "shut: "
        call look
        movw $0x3333, %es:0x610
        say16 "shut and written: "
        call look
        call open
        say16 "open again: "
        call look

        mov $1, %ax
        lmsw %ax
        ljmpl $0x08, $protected
        .code32
protected:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %ss
        movl $0x11111111, 0x200600
        movl $0x22222222, 0x300600
        in $0x92, %al
        and $~2, %al
        out %al, $0x92
        mov 0x300600, %eax
        say32 "protected, shut: "
        call hex32
        movl $0x55555555, 0x3FFFFE      # its end is beyond bit 20: 4 MiB
        in $0x92, %al
        or $2, %al
        out %al, $0x92
        say32 ", open: "
        mov 0x300600, %eax
        call hex32
        mov 0x2FFFFC, %eax
        say32 ", "
        call hex32
        mov 0x400000, %eax
        movzwl %ax, %eax
        say32 " "
        call hex32
        say32 "\n"
        finish
        console32

        .code16
open:   in $0x92, %al
        or $2, %al
        out %al, $0x92
        ret
shut:   in $0x92, %al
        and $~2, %al
        out %al, $0x92
        ret
look:   mov 0x600, %ax
        call hex16
        say16 " "
        mov %es:0x610, %ax
        call hex16
        say16 " code "
        lcall $0xFFFF, $0x710
        call hex16
        say16 "\n"
        ret
        console16

        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
gdtr:   .word . - gdt - 1
        .long gdt
