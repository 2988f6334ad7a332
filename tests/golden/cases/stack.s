# The host's RSP is the guest's plus an addend.

# case: push and pop
    push rax
    push r9
    push 5
    push 0x12345678
    push rsp
    pop rbx
    pop r9
    pop rsp
    ret

# case: push and pop of memory
    push qword ptr [rdi]
    push qword ptr [rsp + 8]
    pop qword ptr [rdi]
    pop qword ptr [rsp + 8]
    pop qword ptr [r9]
    pop qword ptr [rsp + rax]
    push ax
    pop r9w
    ret

# case: RSP as a base
    mov rax, [rsp]
    mov [rsp + 0x100], r9
    mov rax, [rsp + rcx*8]
    movaps xmm0, [rsp + 16]
    lock inc dword ptr [rsp]
    ret

# case: RSP moves, flags dead
    sub rsp, 0x100
    mov rax, [rsp]
    add rsp, 0x80
    lea rsp, [rsp - 8]
    and rsp, -16
    xor eax, eax
    ret

# case: RSP moves, flags live
    sub rsp, 8
    seta al
    push rax
    add rsp, 16
    jc 1f
1:

# case: RSP moves far
    sub rsp, 0x1000000
    lea rsp, [rsp - 0x1000000]
    ret

# case: RSP as a value
    mov rbp, rsp
    mov rsp, rbp
    lea rax, [rsp + 8]
    lea rsp, [rbp - 8]
    cmp rsp, rax
    add rax, rsp
    add rsp, rax
    and rsp, rax
    mov esp, eax
    xchg rsp, rax
    mov rsp, r9
    mov r9, rsp
    mov rsp, [rdi]
    mov [rdi], rsp
    ret

# case: LEAVE
    leave
    ret

# case: ENTER
    enter 16, 0
    leave
    ret 8

# case: probe before leaving
    sub rsp, 8
    jmp 1f
    nop
1:
