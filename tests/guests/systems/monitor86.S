# A monitor of virtual-8086 mode (SDM 3A ch. 20).  It runs the same real-mode program several times:
# with IOPL 0, where the monitor emulates CLI, STI, PUSHF, POPF, INT and IRET; with IOPL 3; and with
# CR4.VME, with and without a bit for INT 60h in the redirection map, and with VIP.
#
# The program prints FLAGS as it sees them (IF and IOPL); the monitor prints the opcode of what
# traps in [], and {60} for an INT 60h that comes through its gate.

        .set REDIRECTION, 104
        .set PORTS, 104 + 32
        .code16
start:  cli
        xor %ax, %ax
        mov %ax, %ds
        movl $handler, 0x60 * 4
        mov $0xFF, %al
        out %al, $0x21
        lgdtl gdtr
        lidtl idtr
        mov $0x11, %eax
        mov %eax, %cr0
        ljmpl $0x08, $protected

program:
        cli
        call show
        sti
        call show
        push $0x3000
        popf                            # IF = 0
        call show
        int $0x60
        call show
        pushfl                          # traps with VME, too
        pop %ax
        pop %ax
        mov $0x300, %dx                 # traps by the TSS's map at any IOPL
        in (%dx), %al
        mov %al, %ah
        call hex16
        hlt
show:   say16 " "
        pushf
        pop %ax
        and $0x3200, %ax
        call hex16
        ret
handler:
        say16 " handler"
        call show
        iret

        console16

        .code32
protected:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $0x18, %eax
        ltr %ax
        mov $phases, %ebx
next:   mov $0x10, %eax
        mov %eax, %ds
        mov $0x7000, %esp
        mov (%ebx), %esi
        test %esi, %esi
        jz ended
        call print
        mov 4(%ebx), %eax
        mov %eax, %cr4
        mov 12(%ebx), %al
        mov %al, tss + REDIRECTION + 0x60 / 8
        movl $0, virtual_if
        pushl $0x5000                   # GS
        pushl $0x4000                   # FS
        pushl $0x0000                   # DS
        pushl $0x3000                   # ES
        pushl $0x2000                   # SS
        pushl $0x100
        pushl 8(%ebx)                   # EFLAGS with VM
        pushl $0
        pushl $program
        iret
ended:  say32 "selectors in the monitor "
        mov selectors, %eax
        call hex32
        say32 "\n"
        finish

# At %ebp: EDI to EAX (32 bytes), the error code, EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS.
        .set AX, 28
        .set IP, 36
        .set CS, 40
        .set FLAGS, 44
        .set SP, 48
        .set SS, 52
gp:     pushal
        mov %esp, %ebp
        mov %ds, %ecx
        mov %es, %edx
        or %edx, %ecx
        mov %fs, %edx
        or %edx, %ecx
        mov %gs, %edx
        or %edx, %ecx
        mov $0x10, %edx
        mov %edx, %ds
        or %ecx, selectors
        movzwl CS(%ebp), %esi
        shl $4, %esi
        add IP(%ebp), %esi              # the instruction
        movzwl SS(%ebp), %edi
        shl $4, %edi
        add SP(%ebp), %edi              # the program's stack
        mov $2, %ecx                    # operand size
        say32 "["
        cmpb $0x66, (%esi)
        jne 1f
        inc %esi
        incl IP(%ebp)
        mov $4, %ecx
        say32 "66 "
1:      mov (%esi), %al
        call byte
        say32 "]"
        incl IP(%ebp)
        cmp $0xFA, %al
        je do_cli
        cmp $0xFB, %al
        je do_sti
        cmp $0x9C, %al
        je do_pushf
        cmp $0x9D, %al
        je do_popf
        cmp $0xCD, %al
        je do_int
        cmp $0xCF, %al
        je do_iret
        cmp $0xEC, %al
        je do_in
        cmp $0xF4, %al
        je do_hlt
        say32 "unknown\n"
        finish
do_cli: movl $0, virtual_if
resume: popal
        add $4, %esp
        iret
do_sti: movl $0x200, virtual_if
        testl $0x100000, FLAGS(%ebp)    # VIP: the interrupt that waited comes now
        jz resume
        andl $~0x100000, FLAGS(%ebp)
        orl $0x80000, FLAGS(%ebp)       # VIF
        say32 "vip"
        jmp resume
do_pushf:
        call image
        sub %ecx, SP(%ebp)
        sub %ecx, %edi
        mov %ax, (%edi)
        jmp resume
do_popf:
        mov (%edi), %ax
        add %ecx, SP(%ebp)
        and $0x200, %eax
        mov %eax, virtual_if
        jmp resume
do_int: call image
        movzbl 1(%esi), %esi
        incl IP(%ebp)
        subl $6, SP(%ebp)
        mov %ax, -2(%edi)
        mov CS(%ebp), %ax
        mov %ax, -4(%edi)
        mov IP(%ebp), %ax
        mov %ax, -6(%edi)
        movzwl (,%esi,4), %eax
        mov %eax, IP(%ebp)
        movzwl 2(,%esi,4), %eax
        mov %eax, CS(%ebp)
        jmp do_cli
do_iret:
        addl $6, SP(%ebp)
        movzwl (%edi), %eax
        mov %eax, IP(%ebp)
        movzwl 2(%edi), %eax
        mov %eax, CS(%ebp)
        movzwl 4(%edi), %eax
        and $0x200, %eax
        mov %eax, virtual_if
        jmp resume
do_in:  movb $0x5A, AX(%ebp)
        jmp resume
do_hlt: mov %cr4, %eax
        mov FLAGS(%ebp), %eax
        say32 " end "
        and $0x1A3200, %eax             # VIP, VIF, VM, IOPL, IF
        call hex32
        say32 "\n"
        mov phase, %ebx
        add $16, %ebx
        mov %ebx, phase
        jmp next
image:  movzwl FLAGS(%ebp), %eax        # the program's FLAGS: IOPL 3, and IF is the virtual one
        and $~0x3200, %eax
        or $0x3000, %eax
        or virtual_if, %eax
        ret

int60:  pushal
        say32 "{60}"
        popal
        iret

print:  mov (%esi), %al
        test %al, %al
        jz 1f
        inc %esi
        call put32
        jmp print
1:      ret
byte:   push %eax
        mov %al, %ah
        shr $4, %al
        call nibble
        mov %ah, %al
        call nibble
        pop %eax
        ret
nibble: and $15, %al
        add $'0', %al
        cmp $'9', %al
        jbe put32
        add $'A' - '9' - 1, %al
        jmp put32

        console32

        .balign 4
phase:  .long phases
virtual_if:
        .long 0
selectors:
        .long 0
        .macro run name, cr4, flags, map
        .subsection 1
1:      .asciz "\name:"
        .previous
        .long 1b, \cr4, \flags, \map
        .endm
phases: run "IOPL 0", 0, 0x20002, 0
        run "IOPL 3", 0, 0x23002, 0
        run "VME, IOPL 0", 1, 0x20002, 0
        run "VME, IOPL 0, map", 1, 0x20002, 1
        run "VME, IOPL 3", 1, 0x23002, 0
        run "VME, IOPL 3, map", 1, 0x23002, 1
        run "VME, IOPL 0, VIP", 1, 0x120002, 0
        .long 0

        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
        .word PORTS + 128, tss, 0x8900, 0
gdtr:   .word . - gdt - 1
        .long gdt
        .balign 8
idt:    .fill 13, 8, 0
        .word gp, 0x08, 0x8E00, 0
        .fill 0x60 - 14, 8, 0
        .word int60, 0x08, 0xEE00, 0
idtr:   .word . - idt - 1
        .long idt
        .balign 4
tss:    .long 0, 0x7000, 0x10
        .fill 22, 4, 0
        .word 0, PORTS
        .fill 32, 1, 0
        .fill 0x60, 1, 0                # ports 0 to 2FFh
        .fill 0x1F, 1, 0xFF
        .byte 0, 0xFF                   # 3F8h to 3FFh
