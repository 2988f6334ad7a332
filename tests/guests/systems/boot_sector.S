# A boot sector in real mode, which needs no firmware: it has its own interrupt vectors (SDM 3A
# 21.1.4), sets the 8259 pair and the 8254, and prints over the 16550.
#
# For each event it prints the vector, how far the pushed IP is behind the instruction, and bits 8
# (TF) and 9 (IF) of the pushed flags.

        .macro event instruction:vararg
        mov $1f, %bx
        mov $2f, %si
1:      \instruction
2:
        .endm

        .code16
start:  cli
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7C00, %sp
        mov %ax, %di                    # vectors 0 to 7 lead to calls of `report`, each of 3 bytes
        mov $calls, %ax
        mov $8, %cx
vector: stosw
        add $3, %ax
        movw $0, (%di)
        add $2, %di
        loop vector
        movl $tick, 0x20 * 4
        movl $service, 0x21 * 4
        mov $greeting, %si
        call print

        event divb %ch                  # a fault
        event .byte 0xCC                # INT3, a trap
        mov $0x7F, %al
        inc %al                         # sets OF
        event into
        mov $100, %ax
        event bound %ax, bounds         # a fault
        event ud2                       # a fault
        mov $8, %cl
        sti
        event aam $0
        cli
        pushf
        mov %sp, %bp
        orb $1, 1(%bp)                  # TF: a trap behind the instruction after POPF
        mov $1f, %bx
        mov $2f, %si
        popf
1:      nop
2:

        mov $'a', %al
        int $0x21
        mov $0x11, %al                  # ICW1 to ICW4: the interrupts begin at 20h
        out %al, $0x20
        mov $0x20, %al
        out %al, $0x21
        mov $4, %al
        out %al, $0x21
        mov $1, %al
        out %al, $0x21
        mov $0xFE, %al                  # only the timer
        out %al, $0x21
        mov $0x34, %al                  # counter 0, mode 2, 2.5 ms
        out %al, $0x43
        mov $3000 & 0xFF, %al
        out %al, $0x40
        mov $3000 >> 8, %al
        out %al, $0x40
wait:   sti
        hlt
        cli
        cmpb $3, ticks
        jb wait
        mov $ending, %si
        call print
        xor %ax, %ax
        out %al, $0xF4
        hlt

calls:  .rept 8
        call report
        .endr
report: pop %ax                         # the address behind the call
        sub $calls + 3, %ax
        mov $3, %cl
        div %cl
        call digit
        mov $'+', %al
        call put
        mov %sp, %bp
        mov (%bp), %ax
        sub %bx, %ax
        call digit
        mov $' ', %al
        call put
        mov 5(%bp), %al
        and $3, %al
        call digit
        mov $10, %al
        call put
        andb $~1, 5(%bp)
        mov %si, (%bp)
        iret
service:                                # INT 21h: the next letter of AL
        inc %ax
        call put
        mov $10, %al
        call put
        iret
tick:   push %ax
        incb ticks
        mov $'.', %al
        call put
        mov $0x20, %al
        out %al, $0x20
        pop %ax
        iret
print:  lodsb
        test %al, %al
        jz 1f
        call put
        jmp print
1:      ret
digit:  add $'0', %al
put:    push %ax
        mov $0x3FD, %dx
1:      in (%dx), %al
        test $0x20, %al
        jz 1b
        pop %ax
        mov $0xF8, %dl
        out %al, (%dx)
        ret

bounds: .word 1, 99
ticks:  .byte 0
greeting:
        .asciz "boot sector\n"
ending: .asciz "\nticks counted\n"
        .org 510
        .byte 0x55, 0xAA
