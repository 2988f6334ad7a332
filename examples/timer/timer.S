# Counts ten ticks of the 8254 through the 8259, printing a dot for each, and ends with status 1.
        .intel_syntax noprefix
        .globl _start
        .set    VECTOR, 0x20
        .set    DIVISOR, 11932                  # 1,193,182 Hz / 11,932: 100 ticks a second
        .text
_start:
        lea     rax, [rip + tick]
        lea     rdi, [rip + idt + 16 * VECTOR]
        mov     word ptr [rdi], ax
        mov     word ptr [rdi + 2], cs
        mov     word ptr [rdi + 4], 0x8E00      # interrupt gate, present, DPL 0
        shr     rax, 16
        mov     word ptr [rdi + 6], ax
        shr     rax, 16
        mov     dword ptr [rdi + 8], eax
        lidt    [rip + idtr]

        mov     al, 0x11                        # ICW1: edge-triggered, cascaded, ICW4 follows
        out     0x20, al
        out     0xA0, al
        mov     al, VECTOR                      # ICW2
        out     0x21, al
        mov     al, VECTOR + 8
        out     0xA1, al
        mov     al, 4                           # ICW3: the slave is at input 2
        out     0x21, al
        mov     al, 2
        out     0xA1, al
        mov     al, 1                           # ICW4: 8086 mode
        out     0x21, al
        out     0xA1, al
        mov     al, 0xFE                        # IMR: the timer only
        out     0x21, al
        mov     al, 0xFF
        out     0xA1, al

        mov     al, 0x34                        # counter 0, both bytes, mode 2
        out     0x43, al
        mov     al, DIVISOR & 0xFF
        out     0x40, al
        mov     al, DIVISOR >> 8
        out     0x40, al

        mov     ecx, 10
wait:
        sti
        hlt
        cli
        test    ecx, ecx
        jnz     wait
        mov     dx, 0x3F8
        mov     al, '\n'
        out     dx, al
        xor     eax, eax
        out     0xF4, al
        hlt

tick:
        push    rax
        push    rdx
        mov     dx, 0x3F8
        mov     al, '.'
        out     dx, al
        dec     ecx
        mov     al, 0x20                        # end of interrupt
        out     0x20, al
        pop     rdx
        pop     rax
        iretq

        .data
idtr:
        .word   16 * (VECTOR + 1) - 1
        .quad   idt
        .balign 16
idt:
        .fill   16 * (VECTOR + 1), 1, 0

        .section .note.GNU-stack, "", @progbits
