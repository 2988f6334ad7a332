# Instructions without memory operands run as they are; r8-r11 and RSP live elsewhere.

# case: registers in place
    mov rax, rbx
    add ecx, 7
    imul r12, r13, 100
    setne al
    cmovl r14, rsi
    bswap rdi
    paddd xmm9, xmm10
    nop
    nopw [rax + rax]
    ret

# case: one spilled register
    mov r9, rax
    mov rax, r10
    add r11, rcx
    add rcx, r11
    mov r9d, r9d
    inc r8
    shl r10d, cl
    movzx r8d, r9b
    mov r9, 0x1122334455667788
    mov r10d, 5
    bswap r11
    xchg r9, rax
    ret

# case: two and three spilled registers
    add r8, r9
    mov r10, r11
    xchg r8, r9
    xadd r9, r10
    imul r9, r10, 3
    andn r9, r10, r11
    pdep r8, r9, r10
    mulx r8, r9, rax
    shlx r11, r9, r9
    ret

# case: high bytes
    mov ah, bl
    add al, ch
    mov [rdi], ah
    add ah, [rdi]
    cmp ch, [rdi + 4]
    xchg [rdi], ah
    movzx eax, bh
    movzx esp, ah
    ret

# case: spilled register beside memory
    mov r9, [rdi]
    mov [rdi], r9
    add r8, [rdi + 8]
    lock cmpxchg [rdi], r11
    mov r8, [r9 + r10*4 + 16]
    movzx r9d, byte ptr [r9]
    andn r9, r10, [rdi]
    bextr r9, [rdi], r10
    mov qword ptr [r11], 5
    ret
