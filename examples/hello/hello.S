# Prints a line on the serial port and ends the run with status 1 (debug exit value 0).
        .intel_syntax noprefix
        .globl _start
        .text
_start:
        lea     rsi, [rip + message]
next:
        lodsb
        test    al, al
        jz      done
        mov     dx, 0x3F8
        out     dx, al
        jmp     next
done:
        xor     eax, eax
        out     0xF4, al
        hlt

        .section .rodata
message:
        .asciz  "Hello from ring 0\n"

        .section .note.GNU-stack, "", @progbits
