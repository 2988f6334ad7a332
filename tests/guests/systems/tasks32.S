# A 32-bit kernel that changes tasks by hardware: CALL and JMP to TSSs and task gates, IRET back,
# preemption by a task gate in the IDT, and a double fault that is a task (SDM 3A ch. 7).
# Each task has its own page directory; task A runs in ring 3 with an I/O permission bitmap.

        .code16
start:  cli
        xor %ax, %ax
        mov %ax, %ds
        lgdtl gdtr
        lidtl idtr
        mov $0x11, %eax
        mov %eax, %cr0
        ljmpl $0x08, $protected

        .code32
protected:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov %eax, %fs
        mov %eax, %gs
        mov $0x7000, %esp
        movl $0x87, 0x10000             # page directories: the first 4 MiB are physical, the
        movl $0x87, 0x11000             # second 4 MiB of each task are its own
        movl $0x400087, 0x10004
        movl $0x800087, 0x11004
        mov $0x10, %eax                 # CR4.PSE
        mov %eax, %cr4
        mov $0x10000, %eax
        mov %eax, %cr3
        mov $0x80000011, %eax
        mov %eax, %cr0
        mov $0x18, %eax
        ltr %ax

        mov $0x11, %al                  # the 8259: interrupts begin at 20h, all are masked
        out %al, $0x20
        mov $0x20, %al
        out %al, $0x21
        mov $4, %al
        out %al, $0x21
        mov $1, %al
        out %al, $0x21
        mov $0xFF, %al
        out %al, $0x21

        say32 "main: call A by its task gate\n"
        lcall $0x40, $0
        say32 "main: back, "
        call state
        say32 "main: a double fault\n"
        clts
        movb $0x0E, idt + 13 * 8 + 5    # the gate of #GP is not present
        mov $0xFFF8, %eax
        mov $faults, %ebx
        movl $goes_on, next
faults: mov %eax, %fs
goes_on:
        movb $0x8E, idt + 13 * 8 + 5
        say32 "main: back, "
        call state

        mov $0xFE, %al                  # the timer
        out %al, $0x21
        mov $0x34, %al
        out %al, $0x43
        mov $3000 & 0xFF, %al
        out %al, $0x40
        mov $3000 >> 8, %al
        out %al, $0x40
        say32 "main: jump to A\n"
        movb $0x8B, gdt + 0x3D          # the timer returns to B as if B had been interrupted
        ljmp $0x30, $0
        say32 "\nmain: back, "
        call state
        mov 0x400000, %eax              # A's page
        call hex32
        movl $0x11000, %eax
        mov %eax, %cr3
        say32 " and "
        mov 0x400000, %eax              # B's
        call hex32
        say32 " in the tasks' own pages\n"
        finish

state:                                  # NT, CR0.TS, the TSSs of main, timer, #DF, A, B
        pushfl
        pop %eax
        shr $14, %eax
        and $1, %eax
        mov %cr0, %ecx
        and $8, %ecx
        lea (%eax,%ecx,2), %eax
        call hex32
        say32 " tss"
        mov $gdt + 0x1D, %esi
        mov $5, %ecx
1:      say32 " "
        movzbl (%esi), %eax
        call hex32
        add $8, %esi
        loop 1b
        say32 "\n"
        ret

task_a: say32 "A: link "
        movzwl tss_a, %eax
        call hex32
        say32 " flags "
        pushfl
        pop %eax
        and $0x4200, %eax               # NT and IF
        call hex32
        say32 " esp "
        mov %esp, %eax
        call hex32
        mov %cs, %eax
        say32 " cs "
        call hex32
        say32 "\n"
        mov $denied, %ebx
denied: in $0x21, %al
        iret
        mov $'A', %al
        jmp slice
task_b: mov $'B', %al
slice:  mov done, %ecx                  # once for each of the timer's turns
        cmp current, %ecx
        je slice
        call put32
        mov %eax, 0x400000
        mov current, %ecx
        mov %ecx, done
        jmp slice

timer:  mov $0x20, %al
        out %al, $0x20
        mov current, %eax
        cmp done, %eax
        jne 2f                          # the task has not had its turn yet
        inc %eax
        mov %eax, current
        cmp $7, %eax
        je 1f
        xorw $0x30 ^ 0x38, tss_timer    # return to the other one
        jmp 2f
1:      movb $0x89, gdt + 0x35          # neither is busy any more, but main is
        movb $0x89, gdt + 0x3D
        movb $0x8B, gdt + 0x1D
        movw $0x18, tss_timer
2:      iret
        jmp timer

double: pop %edx
        say32 "double fault: error "
        mov %edx, %eax
        call hex32
        say32 " link "
        movzwl tss_double, %eax
        call hex32
        say32 " eip +"
        mov tss_main + 32, %eax
        sub tss_main + 52, %eax         # EBX
        call hex32
        say32 " flags "
        pushfl
        pop %eax
        and $0x4000, %eax
        call hex32
        say32 "\n"
        mov next, %eax
        mov %eax, tss_main + 32
        iret

gp:     say32 "#GP: error "             # skips an instruction of two bytes
        pop %eax
        call hex32
        say32 " eip +"
        mov (%esp), %eax
        sub %ebx, %eax
        call hex32
        say32 " cs "
        mov 4(%esp), %eax
        call hex32
        say32 "\n"
        addl $2, (%esp)
        iret

        console32

        .balign 4
current:
        .long 1
done:   .long 0
next:   .long 0
        .macro tss cr3, eip, flags, esp, cs, ds
        .long 0, 0x6000, 0x10, 0, 0, 0, 0, \cr3, \eip, \flags, 0, 0, 0, 0, \esp, 0, 0, 0
        .long \ds, \cs, \ds, \ds, \ds, \ds, 0, 104 << 16
        .endm
tss_main:
        tss 0x10000, 0, 0, 0, 0, 0
tss_timer:
        tss 0x10000, timer, 2, 0x5000, 0x08, 0x10
tss_double:
        tss 0x10000, double, 2, 0x4800, 0x08, 0x10
tss_b:  tss 0x11000, task_b, 0x202, 0x4000, 0x08, 0x10
tss_a:  tss 0x10000, task_a, 0x202, 0x3800, 0x4B, 0x53
        .fill 0x7F, 1, 0xFF             # ports 0 to 3F7h are denied, 3F8h to 3FFh are allowed
        .byte 0, 0xFF
        .macro task_segment base, limit
        .word \limit, \base, 0x8900, 0
        .endm
        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
        task_segment tss_main, 103
        task_segment tss_timer, 103
        task_segment tss_double, 103
        task_segment tss_a, 104+128
        task_segment tss_b, 103
        .word 0, 0x30, 0x8500, 0        # 40h: a task gate
        .quad 0x00CFFB000000FFFF, 0x00CFF3000000FFFF
gdtr:   .word . - gdt - 1
        .long gdt
        .balign 8
idt:    .fill 8, 8, 0
        .word 0, 0x28, 0x8500, 0        # #DF
        .fill 4, 8, 0
        .word gp, 0x08, 0x8E00, 0       # #GP
        .fill 18, 8, 0
        .word 0, 0x20, 0x8500, 0        # 20h: the timer
idtr:   .word . - idt - 1
        .long idt
