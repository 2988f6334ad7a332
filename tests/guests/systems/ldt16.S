# A kernel of the 80286's kind: 16-bit protected mode, 16-bit TSSs, an LDT for each task, gates.
# Its tasks run in ring 3 (SDM 3A 3.4.5, 5.3-5.8, 6.13, 7.2-7.4).
#
# An event is one instruction with a name.  If it faults, the kernel prints the vector, the error
# code, how far the pushed IP is behind the instruction, and CS; else the kernel prints "fine".

        .macro event name, instruction:vararg
        mov $1f - base, %bx
        mov $2f - base, %si
        mov $3f, %di
1:      \instruction
        int $0x21
2:
        .subsection 1
3:      .asciz "\name"
        .previous
        .endm

        .set base, 0
        .code16
start:  cli
        xor %ax, %ax
        mov %ax, %ds
        lgdtl gdtr
        lidtl idtr
        mov $idt, %di                   # interrupt gates for vectors 0 to 15
        mov $calls, %ax
        mov $16, %cx
1:      mov %ax, (%di)
        movw $8, 2(%di)
        movw $0x8600, 4(%di)
        movw $0, 6(%di)
        add $3, %ax
        add $8, %di
        loop 1b
        mov $1, %ax
        lmsw %ax
        ljmp $0x08, $protected
protected:
        mov $0x10, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7000, %sp
        mov $0x18, %ax
        ltr %ax
        say16 "kernel\n"
        lcall $0x20, $0
        say16 "task A has returned\n"
        lcall $0x28, $0
        say16 "task B has returned\n"
        lcall $0x20, $0
        say16 "task A has returned, its TSS has link "
        mov tss_a, %ax
        call hex16
        say16 " and type "
        mov gdt + 0x25, %al             # 81h: available
        mov gdt + 0x1D, %ah             # 83h: the kernel's own is busy
        call hex16
        say16 "\nflags "
        pushf
        pop %ax
        and $0x7000, %ax                # NT and IOPL
        call hex16
        sldt %ax
        say16 " ldt "
        call hex16
        say16 "\n"
        event "call a busy task", lcall $0x18, $0
        event "jump to a task gate of the kernel's own task", ljmp $0x48, $0
        mov $0x58, %cx
        event "load a data segment beyond the GDT", mov %cx, %ds
        finish

calls:  .rept 16
        call report
        .endr
report: pop %ax
        push %di
        call name
        pop %di
        sub $calls + 3, %ax
        mov $3, %cl
        div %cl
        call hex16
        mov $0x7D00, %cx                # the vectors that have an error code
        bt %ax, %cx
        jnc 1f
        say16 " "
        pop %ax
        call hex16
1:      mov %sp, %bp
        say16 " +"
        mov (%bp), %ax
        sub %bx, %ax
        call hex16
        say16 " "
        mov 2(%bp), %ax
        call hex16
        say16 "\n"
        mov %si, (%bp)
        iret
fine:   call name
        say16 "fine\n"
        iret
name:   push %ax
1:      mov %cs:(%di), %al
        inc %di
        test %al, %al
        jz 2f
        call put16
        jmp 1b
2:      say16 ": "
        pop %ax
        ret
service:                                # a call gate with a parameter: print the character
        mov %sp, %bp
        mov 4(%bp), %al
        call put16
        say16 " is what ring 3 passes, from stack "
        mov 8(%bp), %ax
        call hex16
        say16 "\n"
        lret $2

        console16

        .balign 16
        .set base, .
a_code:
        event "read the last byte", mov 15, %al
        event "read a byte beyond", mov 16, %al
        event "read a word half beyond", mov 15, %ax
        event "write the last word", mov %ax, 14
        event "write beyond", mov %ax, 0xFFFE
        mov $0xFFF3, %sp
        event "push the lowest word of an expand-down stack", push %ax
        event "push below its limit", push %ax
        mov $0xFFFE, %sp
        event "read the stack below its limit", mov %ss:0xFFF0, %al
        event "write code", orb $0, %cs:0
        mov $0x1F, %ax
        event "load a read-only segment", mov %ax, %es
        event "write it", orb $0, %es:0
        mov $0x27, %ax
        event "load an execute-only segment", mov %ax, %es
        mov $0x2F, %ax
        event "load a segment that is not present", mov %ax, %es
        mov $0x10, %ax
        event "load the kernel's data", mov %ax, %es
        mov $0x37, %ax
        event "load a segment beyond the LDT", mov %ax, %es
        mov $0, %ax
        event "load null", mov %ax, %es
        event "read through null", mov %es:0, %al
        xor %ax, %ax
        event "load null as a stack", mov %ax, %ss
        event "jump beyond the code", jmp beyond
landed:
        event "far call of the kernel", lcall $0x08, $0
        event "cli", cli
        event "in", in $0x21, %al
        event "hlt", hlt
        event "lgdt", lgdt 0
        event "int 22h of ring 0", int $0x22
        event "a call gate of ring 0", lcall $0x50, $0
        mov $'@', %al
        push %ax
        lcall $0x43, $0
        event "the stack after the gate", cmp $0xFFFE, %sp
        iret                            # NT: back to the kernel
        mov $'A', %al
        push %ax
        lcall $0x43, $0
        iret
a_end:  nop
beyond: jmp landed                      # only a processor without limits comes here

        .balign 16
        .set base, .
b_code: mov 0, %al                      # B's own data
        push %ax
        lcall $0x43, $0
        event "read the last byte of B", mov 7, %al
        event "read a byte beyond it", mov 8, %al
        sldt %ax
        event "its own LDT", cmp $0x38, %ax
        iret
b_end:

        .balign 8
a_data: .fill 16, 1, 'a'
b_data: .fill 8, 1, 'b'
        .macro descriptor base, limit, access
        .word \limit, \base, \access << 8, 0
        .endm
gdt:    .quad 0
        descriptor 0, 0xFFFF, 0x9B
        descriptor 0, 0xFFFF, 0x93
        descriptor tss_kernel, 43, 0x81
        descriptor tss_a, 43, 0x81
        descriptor tss_b, 43, 0x81
        descriptor ldt_a, 47, 0x82
        descriptor ldt_b, 47, 0x82
        .word service, 0x08, 0xE401, 0  # 40h: a call gate, one parameter
        .word 0, 0x18, 0x8500, 0        # 48h: a task gate
        .word service, 0x08, 0x8401, 0  # 50h: a call gate of DPL 0
gdtr:   .word . - gdt - 1
        .long gdt
        .balign 8
ldt_a:
        descriptor a_code, (a_end-a_code-1), 0xFB
        descriptor a_data, 15, 0xF3
        descriptor 0x1000, 0xFFF0, 0xF7
        descriptor a_data, 15, 0xF1
        descriptor a_code, (a_end-a_code-1), 0xF9
        descriptor a_data, 15, 0x73     # 2Fh
ldt_b:
        descriptor b_code, (b_end-b_code-1), 0xFB
        descriptor b_data, 7, 0xF3
        descriptor 0x2000, 0xFFF0, 0xF7
        .quad 0, 0, 0
        .macro tss stack0, ldt
        .word 0, \stack0, 0x10, 0, 0, 0, 0
        .word 0, 2, 0, 0, 0, 0, 0xFFFE, 0, 0, 0, 0x0F, 0x07, 0x17, 0x0F, \ldt
        .endm
tss_kernel:
        .fill 22, 2, 0
tss_a:  tss 0x6000, 0x30
tss_b:  tss 0x5000, 0x38
idtr:   .word 0x23 * 8 - 1
        .long idt
        .balign 8
idt:    .fill 0x21, 8, 0
        .word fine, 0x08, 0xE700, 0     # 21h: for ring 3
        .word fine, 0x08, 0x8700, 0     # 22h: not for ring 3
