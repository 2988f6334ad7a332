# Memory operands: how an address finds its addend.

# case: two windows
    mov rax, [rdi]
    mov rcx, [rsi + 8]
    mov rdx, [rdi + 8]
    mov [rsi + 0x1000], rcx
    ret

# case: three addresses; the one that is used last has no window
    mov rax, [rdi]
    mov rcx, [rsi]
    mov rdx, [rbx]
    mov rax, [rdi + 8]
    mov rcx, [rsi + 8]
    mov rdx, [rbx + 8]
    ret

# case: three addresses; the one that is not used again gives up its window
    mov rax, [rdi]
    mov rcx, [rsi]
    mov rdx, [rbx]
    mov rax, [rdi + 8]
    mov rdx, [rbx + 8]
    ret

# case: binding survives copies and small steps
    mov rax, [rdi]
    mov rbx, rdi
    mov rcx, [rbx + 8]
    add rbx, 16
    mov rcx, [rbx]
    inc rbx
    mov rcx, [rbx]
    sub rbx, 0x200000
    mov rcx, [rbx]
    xor eax, eax
    ret

# case: without speculation | no-speculate
    mov rax, [rdi]
    mov rcx, [rdi + 8]
    xor eax, eax
    ret

# case: the user's table | cpl=3
    mov rax, [rdi]
    adc eax, eax
    mov rax, [0x1000]
    mov rax, [rip + 0x100]
    ret

# case: indices
    mov rax, [rdi + rcx*8]
    mov ecx, ecx
    mov rax, [rdi + rcx*8 + 16]
    mov edx, 3
    mov rax, [rsp + rdx*8]
    mov rax, [rdx*4 + 0x1000]
    mov rax, [rcx*2 - 0x1000]
    mov dx, 5
    mov rax, [rdi + rdx]
    xor eax, eax
    ret

# case: sign-extended indices
    movsxd rcx, ecx
    mov rax, [rdi + rcx*8 + 16]
    movsx rdx, word ptr [rsi]
    mov rax, [rdi + rdx*4]
    cdqe
    jmp [rax*8 + 0x1000]

# case: RSP and a sign-extended index: the sum is looked up
    movsxd rcx, ecx
    mov rax, [rsp + rcx*8]
    ret

# case: BSF may leave an index as it was
    bsf ecx, eax
    mov rax, [rdi + rcx]
    tzcnt ecx, eax
    mov rax, [rdi + rcx]
    ret

# case: RIP-relative
    mov rax, [rip + 0x100]
    add [rip - 0x100], ecx
    cmp qword ptr [rip + 0x10], 5
    ret

# case: RIP-relative, kernel half | at=0xffffffff81000000
    mov rax, [rip + 0x100]
    ret

# case: RIP-relative, far from 0 | at=0xffff888000123000
    mov rax, [rip + 0x100]
    ret

# case: absolute
    mov rax, [0x1000]
    mov rax, [-0x1000]
    movabs rax, [0x123456789abcdef0]
    ret

# case: segments
    mov rax, gs:[0x28]
    mov rax, fs:[-8]
    mov rax, gs:[rbx]
    mov rax, gs:[rip + 0x100]
    mov ecx, gs:[rbx + rcx*4 + 8]
    mov rax, ds:[rdi]
    ret

# case: 32-bit addresses
    mov rax, [edi]
    mov rax, [edi + ecx*4 - 4]
    mov rax, [r9d]
    mov rax, gs:[eax]
    lea rax, [edi + 4]
    ret
