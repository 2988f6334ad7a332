# Real mode: limits of 64 KiB, instructions that it does not have, events through the interrupt
# table, and the table elsewhere and shorter (SDM 3A ch. 21).
#
# An event is one instruction with a name.  If it faults or traps, its vector is printed and how far
# the pushed IP is behind the instruction; else "fine".  There are no error codes.

        .macro event name, instruction:vararg
        mov $1f, %di
        mov $2f, %si
        .subsection 1
9:      .asciz "\name"
        .previous
        movw $9b, title
1:      \instruction
        int $0x21
2:
        .endm

        .code16
start:  cli
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7000, %sp
        xor %bx, %bx                    # vectors 0 to 15
        mov $calls, %ax
1:      mov %ax, (%bx)
        movw $0, 2(%bx)
        add $3, %ax
        add $4, %bx
        cmp $64, %bx
        jb 1b
        movl $fine, 0x21 * 4
        movl $elsewhere, 0x22 * 4

        event "byte at FFFFh", mov 0xFFFF, %al
        event "word at FFFFh", mov 0xFFFF, %ax
        event "long at FFFDh", mov %eax, 0xFFFD
        event "long at FFFCh", orl $0, 0xFFFC
        mov $0xFFFF, %bp
        event "word at FFFFh by BP", mov (%bp), %ax
        mov $0x10000, %ebx
        event "byte at 10000h", mov (%ebx), %al
        mov $0xFFFF, %bx
        event "BX + 1 wraps to 0", mov 1(%bx), %ax
        event "write through CS", orb $0, %cs:start
        event "mov to CS", .byte 0x8E, 0xC8
        event "arpl", arpl %ax, %bx
        event "lar", lar %ax, %bx
        event "lsl", lsl %ax, %bx
        event "verr", verr %ax
        event "sldt", sldt %ax
        event "str", str %ax
        event "lldt", lldt %ax
        event "ltr", ltr %ax
        event "ud2", ud2
        event "lock nop", .byte 0xF0, 0x90
        event "lock inc of a register", .byte 0xF0, 0xFE, 0xC0
        event "lock inc of memory", lock incb scratch
        event "15 prefixes", .ascii "fffffffffffffff\220"   # 66h, and NOP
        event "14 prefixes", .ascii "ffffffffffffff\220"
        mov $5, %ax
        event "bound outside", bound %ax, bounds
        mov $3, %ax
        event "bound inside", bound %ax, bounds
        mov $0x7F, %al
        inc %al
        event "into", into
        event "int3", int3
        xor %cl, %cl
        event "div", div %cl
        event "cli", cli
        event "clts", clts
        event "mov CR0", mov %cr0, %eax
        event "sgdt", sgdtl scratch
        event "sgdt at FFFCh", sgdtl 0xFFFC
        mov %cr0, %eax
        or $4, %al                      # CR0.EM
        mov %eax, %cr0
        event "x87 with EM", fnop
        mov %cr0, %eax
        and $~4, %al
        mov %eax, %cr0
        mov $0x10000, %eax
        event "jump to 10000h", jmpl *%eax
        event "call of 10000h", calll *%eax
        pushl %eax
        event "return to 10000h", retl
        pop %eax
        event "far jump to 0:10000h", ljmpl $0, $0x10000
        event "far call at FFFEh", lcall *0xFFFE
        mov %sp, %bp
        xor %sp, %sp
        push $0x1234                    # at FFFEh
        mov %sp, %ax
        mov %bp, %sp
        say16 "SP behind 0: "
        call hex16
        say16 "\n"
        pushf
        orb $1, -1(%bp)
        mov $2f, %si
        mov $1f, %di
        movw $stepped, title
        popf
1:      nop
2:      pushfl                          # IRETD in real mode: VM, VIF and VIP stay
        pop %eax
        or $0x1A0000, %eax
        push %eax
        pushl $0
        pushl $1f
        iretl
1:      pushfl
        pop %eax
        shr $16, %eax
        and $0x1A, %ax
        say16 "VM, VIF and VIP after IRETD: "
        call hex16
        say16 "\n"

        lidtl short_table               # INT 22h is beyond its limit
        event "int 22h beyond the limit", int $0x22
        xor %si, %si                    # the table at 9000h
        mov $0x9000, %di
        mov $0x90 / 2, %cx
        rep movsw
        lidtl other_table
        movl $0, 0x22 * 4
        event "int 22h elsewhere", int $0x22
        finish

calls:  .rept 16
        call report
        .endr
report: pop %ax
        sub $calls + 3, %ax
        mov $3, %cl
        div %cl
        push %ax
        call name
        pop %ax
        xor %ah, %ah
        call hex16
        say16 " +"
        mov %sp, %bp
        mov (%bp), %ax
        sub %di, %ax
        call hex16
        say16 "\n"
        mov %si, (%bp)
        movw $0, 2(%bp)                 # CS, if an instruction jumped that should not
        andb $~1, 5(%bp)                # TF
        xor %ax, %ax
        iret
fine:   call name
        say16 "fine\n"
        iret
elsewhere:
        say16 "int 22h\n"
        iret
name:   push %si
        mov title, %si
1:      lodsb
        test %al, %al
        jz 2f
        call put16
        jmp 1b
2:      pop %si
        say16 ": "
        ret
        console16

stepped:
        .asciz "a step"
        .balign 4
title:  .word 0
scratch:
        .fill 8, 1, 0
bounds: .word 1, 4
short_table:
        .word 0x87
        .long 0
other_table:
        .word 0x3FF
        .long 0x9000
