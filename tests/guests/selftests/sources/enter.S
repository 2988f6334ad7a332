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

/* A signal handler that notes the state in which it is entered. */
        .globl  signals_probe
signals_probe:
        mov     %rsp, signals_probed(%rip)
        mov     %rdi, signals_probed+8(%rip)
        mov     %rsi, signals_probed+16(%rip)
        mov     %rdx, signals_probed+24(%rip)
        pushfq
        popq    signals_probed+32(%rip)
        stmxcsr signals_probed+40(%rip)
        fnstcw  signals_probed+44(%rip)
        ret

        .globl  fp_hold
fp_hold:
        mov     %rdx, %r9
        mov     %rcx, %rax
        xor     %edx, %edx
        xrstor  (%rdi)
        rdtsc
        shl     $32, %rdx
        lea     (%rax,%rdx), %r8
1:      rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        sub     %r8, %rax
        cmp     %r9, %rax
        jb      1b
        mov     %rcx, %rax
        xor     %edx, %edx
        xsave   (%rsi)
        ret

        .bss
        .balign 8
entered_rsp:
        .quad   0
target: .quad   0

        .section .note.GNU-stack, "", @progbits
