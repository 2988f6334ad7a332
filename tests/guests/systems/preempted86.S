# Two virtual-8086 tasks that a 32-bit kernel preempts by the timer.  Each has its own page tables,
# which show another copy of the same program at the same linear addresses; the rest is the kernel's
# (SDM 3A 4.6, 20.2, 20.3.1).  The program changes its own code, so that the copies differ.

        .set WINDOW, 0x10000            # linear; physical 200000h and 300000h
        .code16
start:  cli
        xor %ax, %ax
        mov %ax, %ds
        lgdtl gdtr
        lidtl idtr
        mov $0x11, %eax
        mov %eax, %cr0
        ljmpl $0x08, $protected

program:                                # at WINDOW: segment 1000h, offset 0
        int $0x22                       # AX becomes the turn
        cmp %ax, %cs:last - program
        je program
        mov %ax, %cs:last - program
        incw %cs:count - program
        cmpw $2, %cs:count - program
        jne letter
        andb $~0x20, %cs:letter + 1 - program
        xor %bx, %bx
        mov %bx, %ds
        mov 0x7C00, %bl                 # the kernel's page
        mov $0x1000, %bx
        mov %bx, %ds
letter: mov $'a', %al                   # B's copy has another letter; later they are capitals
        int $0x21
        jmp program
last:   .word 0
count:  .word 0
program_end:

        .code32
protected:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $0x7000, %esp
        mov $0x18, %eax
        ltr %ax
        cld
        mov $0x30000, %edi              # a table for each task: the first 4 MiB, for the kernel
        call table
        movl $0x30007, 0x20000
        mov $0x31000, %edi
        call table
        movl $0x31007, 0x21000
        mov $0x30040, %edi              # the entry of WINDOW
        movl $0x200007, (%edi)
        movl $0x300007, 0x1000(%edi)
        mov $0x200000, %edi
        call copy
        mov $0x300000, %edi
        call copy
        movb $'m', 0x300000 + letter + 1 - program
        mov $0x20000, %eax
        mov %eax, %cr3
        mov $0x80010011, %eax
        mov %eax, %cr0

        mov $0x11, %al                  # the 8259: interrupts begin at 20h, only the timer
        out %al, $0x20
        mov $0x20, %al
        out %al, $0x21
        mov $4, %al
        out %al, $0x21
        mov $1, %al
        out %al, $0x21
        mov $0xFE, %al
        out %al, $0x21
        mov $0x34, %al                  # counter 0, mode 2, 2.5 ms
        out %al, $0x43
        mov $3000 & 0xFF, %al
        out %al, $0x40
        mov $3000 >> 8, %al
        out %al, $0x40

        mov $0x5000, %esp               # B's stack, with the frame from which it will go on
        call frame
        mov %esp, other
        mov $0x6000, %esp
        call frame
        popal
        iret

table:  mov $3, %eax
        mov $1024, %ecx
1:      stosl
        add $0x1000, %eax
        loop 1b
        ret
copy:   mov $program, %esi
        mov $program_end - program, %ecx
        rep movsb
        ret
frame:  pop %edx
        push $0x1000                    # GS, FS, DS, ES, SS
        push $0x1000
        push $0x1000
        push $0x1000
        push $0x1000
        push $0xF000                    # ESP
        push $0x23202                   # VM, IOPL 3, IF
        push $0x1000
        push $0
        sub $32, %esp
        jmp *%edx

        .macro enter_kernel
        pushal
        mov $0x10, %edx
        mov %edx, %ds
        .endm
timer:  enter_kernel
        mov $0x20, %al
        out %al, $0x20
        mov turn, %eax
        cmp done, %eax
        jne 1f                          # the task has not had its turn yet
        inc %eax
        mov %eax, turn
        cmp $9, %eax
        je ended
        xchg %esp, other
        xorl $0x6000 ^ 0x5000, tss + 4
        mov %cr3, %eax
        xor $0x20000 ^ 0x21000, %eax
        mov %eax, %cr3
1:      popal
        iret
ended:  say32 "\ncounts "
        movzwl 0x200000 + count - program, %eax
        call hex32
        say32 " "
        movzwl 0x300000 + count - program, %eax
        call hex32
        say32 "\nlast stack "
        mov %esp, %eax
        call hex32
        say32 "\n"
        finish
print:  enter_kernel
        call put32
        mov turn, %eax
        mov %eax, done
        popal
        iret
which:  enter_kernel
        mov turn, %eax
        mov %ax, 28(%esp)
        popal
        iret
page_fault:                             # of the program: skips an instruction of four bytes
        enter_kernel
        say32 "["
        mov 32(%esp), %eax
        call hex32
        say32 " "
        mov %cr2, %eax
        call hex32
        say32 "]"
        addl $4, 36(%esp)
        popal
        add $4, %esp
        iret

        console32

        .balign 4
turn:   .long 1
done:   .long 0
other:  .long 0
tss:    .long 0, 0x6000, 0x10
        .fill 23, 4, 0
        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
        .word 103, tss, 0x8900, 0
gdtr:   .word . - gdt - 1
        .long gdt
        .balign 8
idt:    .fill 14, 8, 0
        .word page_fault, 0x08, 0x8E00, 0
        .fill 0x20 - 15, 8, 0
        .word timer, 0x08, 0x8E00, 0    # 20h
        .word print, 0x08, 0xEE00, 0
        .word which, 0x08, 0xEE00, 0
idtr:   .word . - idt - 1
        .long idt
