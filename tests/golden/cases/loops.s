# Loops inside a fragment: later passes do not check what the first has bound.

# case: steps through memory
1:  mov rax, [rdi]
    add rdi, 8
    dec ecx
    jne 1b
    ret

# case: two pointers and an index
1:  mov al, [rsi + rcx]
    mov [rdi + rcx], al
    inc rcx
    cmp rcx, rdx
    jne 1b
    ret

# case: unconditional, with a way out
1:  cmp byte ptr [rdi], 0
    je 2f
    inc rdi
    jmp 1b
2:  ret

# case: nothing bound, so nothing to gain
1:  mov rax, [rdi + rax*8]
    dec ecx
    jne 1b
    ret

# case: a chain of pointers: the slot is predicted
1:  mov rdi, [rdi]
    test rdi, rdi
    jne 1b
    ret

# case: down a tree
1:  mov rax, [rdi + 16]
    mov rsi, [rdi]
    cmp rax, rdx
    cmova rsi, [rdi + 8]
    mov rdi, rsi
    test rdi, rdi
    jne 1b
    ret

# case: three arrays
1:  mov rax, [rdi]
    add rax, [rsi]
    mov [rbx], rax
    add rdi, 8
    add rsi, 8
    add rbx, 8
    dec ecx
    jne 1b
    ret

# case: a pass does not keep what the first bound
1:  mov rax, [rdi]
    mov rbx, [rsi]
    mov rsi, rbx
    dec ecx
    jne 1b
    ret

# case: with an operation
1:  mov rax, [rdi]
    cpuid
    dec ecx
    jne 1b
    ret

# case: loop without speculation | no-speculate
1:  mov rax, [rdi]
    add rdi, 8
    dec ecx
    jne 1b
    ret

# case: spilled registers are copied to the windows' registers
1:  mov r9d, [rdi + r8*4]
    add r8, 1
    add eax, r9d
    cmp r8, rcx
    jb 1b
    ret

# case: copies end where another register needs their place
1:  mov r8, [rdi]
    mov rax, [rsi]
    mov [rdi + 8], rax
    mov [rsi + 8], r8
    add rdi, 16
    add rsi, 16
    dec ecx
    jne 1b
    ret
