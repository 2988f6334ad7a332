/* How a snippet is entered, with all registers given, and left. */
        .text
        .globl  enter, leave, entered_rsp

/* void enter(const struct registers *c): returns by leave. */
enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, entered_rsp(%rip)
        mov     128(%rdi), %rax
        mov     %rax, target(%rip)
        pushq   136(%rdi)
        popfq
        mov     (%rdi), %rax
        mov     8(%rdi), %rcx
        mov     16(%rdi), %rdx
        mov     24(%rdi), %rbx
        mov     32(%rdi), %rsp
        mov     40(%rdi), %rbp
        mov     48(%rdi), %rsi
        mov     64(%rdi), %r8
        mov     72(%rdi), %r9
        mov     80(%rdi), %r10
        mov     88(%rdi), %r11
        mov     96(%rdi), %r12
        mov     104(%rdi), %r13
        mov     112(%rdi), %r14
        mov     120(%rdi), %r15
        mov     56(%rdi), %rdi
        jmp     *target(%rip)

/* The handler of a snippet's signal returns here, with RSP as enter left it. */
leave:
        fninit
        pushq   $0x1F80
        ldmxcsr (%rsp)
        pop     %rax
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

        .bss
        .balign 8
entered_rsp:
        .quad   0
target: .quad   0

        .section .note.GNU-stack, "", @progbits
