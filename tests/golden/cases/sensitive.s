# What leaves translated code, or is done by code of its own.

# case: inlined at CPL 0
    cli
    pushfq
    sti
    swapgs
    rdtsc
    ret

# case: not inlined at CPL 3 | cpl=3
    cli
    pushfq
    popfq
    ret

# case: not inlined when stepping | step
    cli

# case: with a memory operand
    lgdt [rdi]
    invlpg [r9 + 8]
    sgdt gs:[0x10]
    fxsave [rip + 0x100]
    ltr word ptr [edi]
    smsw [rsp + 2]
    ret

# case: registers
    mov rax, cr0
    mov r9, cr2
    mov ds, eax
    mov eax, fs
    str eax
    rdmsr
    cpuid
    rdtsc
    in al, dx
    out 0x80, al
    swapgs
    ret

# case: goes on after a control register
    mov cr3, rax
    mov rax, [rdi]

# case: ends the fragment
    syscall
    int3
    int 0x80
    iretq
    hlt
    sysretq
    ud2
    serialize
    retfq

# case: does nothing here
    endbr64
    rdsspq rax
    ret

# case: refused
    vaddps zmm0, zmm1, zmm2
    .byte 0x06
    .byte 0xd6

# case: too long to be an instruction
    .byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66
    .byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90

# case: vector unit switched off | nm
    mov eax, ecx
    movaps xmm0, xmm1
    ret

# case: SSE never switched on | nosse
    fld1
    movaps xmm0, xmm1

# case: AVX never switched on | noavx
    vaddps xmm0, xmm1, xmm2

# case: too rare for translated code
    vpgatherdd xmm0, [rax + xmm1*4], xmm2
    maskmovdqu xmm0, xmm1
    xadd [rdi], ah
    ret
