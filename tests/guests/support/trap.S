/* The recorder: every vector's stub, saving of all registers, and run(). Offsets are those of
   struct cpu and struct trap (guest.h; trap.c asserts them). */
#define RIP     128
#define RFLAGS  136
#define CS      144
#define SS      152
#define VECTOR  160
#define ERROR   168
#define CR2     176
#define FRAME   184
#define ECS     192
#define ESS     200
#define EFLAGS  208
#define COUNT   216

    .text
    .globl trap_stubs, run
    .balign 16
trap_stubs:
    vector = 0
    .rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
    nop
    .else
    push    $0
    .endif
    push    $vector
    jmp     trap_common
    vector = vector + 1
    .endr

trap_common:
    mov     %rax, trap+0*8(%rip)
    mov     %rcx, trap+1*8(%rip)
    mov     %rdx, trap+2*8(%rip)
    mov     %rbx, trap+3*8(%rip)
    mov     %rbp, trap+5*8(%rip)
    mov     %rsi, trap+6*8(%rip)
    mov     %rdi, trap+7*8(%rip)
    mov     %r8, trap+8*8(%rip)
    mov     %r9, trap+9*8(%rip)
    mov     %r10, trap+10*8(%rip)
    mov     %r11, trap+11*8(%rip)
    mov     %r12, trap+12*8(%rip)
    mov     %r13, trap+13*8(%rip)
    mov     %r14, trap+14*8(%rip)
    mov     %r15, trap+15*8(%rip)
    pushfq
    pop     trap+EFLAGS(%rip)
    xor     %eax, %eax
    mov     %cs, %eax
    mov     %rax, trap+ECS(%rip)
    mov     %ss, %eax
    mov     %rax, trap+ESS(%rip)
    lea     16(%rsp), %rax
    mov     %rax, trap+FRAME(%rip)
    mov     %cr2, %rax
    mov     %rax, trap+CR2(%rip)
    pop     trap+VECTOR(%rip)
    pop     trap+ERROR(%rip)
    pop     trap+RIP(%rip)
    pop     trap+CS(%rip)
    pop     trap+RFLAGS(%rip)
    pop     trap+4*8(%rip)
    pop     trap+SS(%rip)
    incq    trap+COUNT(%rip)
    cld

    mov     trap_hook(%rip), %rax
    test    %rax, %rax
    jz      1f
    lea     trap(%rip), %rdi
    call    *%rax
    test    %eax, %eax
    jnz     resume
1:  mov     host_rsp(%rip), %rax
    test    %rax, %rax
    jnz     2f
    lea     trap(%rip), %rdi
    and     $-16, %rsp
    call    unexpected_trap

2:  mov     %rax, %rsp
    movq    $0, host_rsp(%rip)
    mov     $0x10, %eax
    mov     %eax, %ss
    pushq   $2
    popfq
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    ret

run:
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    mov     %rsp, host_rsp(%rip)
    jmp     enter

resume:
    lea     trap(%rip), %rdi
enter:
    pushq   SS(%rdi)
    pushq   4*8(%rdi)
    pushq   RFLAGS(%rdi)
    pushq   CS(%rdi)
    pushq   RIP(%rdi)
    mov     0*8(%rdi), %rax
    mov     1*8(%rdi), %rcx
    mov     2*8(%rdi), %rdx
    mov     3*8(%rdi), %rbx
    mov     5*8(%rdi), %rbp
    mov     6*8(%rdi), %rsi
    mov     8*8(%rdi), %r8
    mov     9*8(%rdi), %r9
    mov     10*8(%rdi), %r10
    mov     11*8(%rdi), %r11
    mov     12*8(%rdi), %r12
    mov     13*8(%rdi), %r13
    mov     14*8(%rdi), %r14
    mov     15*8(%rdi), %r15
    mov     7*8(%rdi), %rdi
    .globl enter_iretq
enter_iretq:
    iretq

    .bss
    .balign 8
host_rsp:
    .skip   8
    .section .note.GNU-stack, "", @progbits
