# Control flow.

# case: direct jumps
1:  jne 2f
    jmp 1b
2:  jmp 3f
    nop
3:

# case: back edge polls
1:  dec ecx
    jne 1b
    ret

# case: call and return
    call 1f
    ret
1:  ret 16

# case: call, kernel half | at=0xffffffff81000000
    call 1f
1:

# case: call, far from 0 | at=0xffff888000123000
    call 1f
1:

# case: indirect jumps and calls
    call rax
    call r9
    call qword ptr [rdi]
    call qword ptr [rsp + 8]
    call qword ptr [rip + 8]
    jmp rax
    jmp r10
    jmp qword ptr [rdi + rcx*8]

# case: loops
1:  loop 1b
    loope 1b
    loopne 2f
    jrcxz 2f
    jecxz 2f
    addr32 loop 1b
2:

# case: entry with live flags | thunk
    adc eax, ecx
    ret

# case: entry with dead flags | thunk
    add eax, ecx
    ret

# case: entry with dead flags, far from 0 | thunk at=0xffff888000123000
    add eax, ecx
    ret

# case: entry at CPL 3 | thunk cpl=3
    add eax, ecx
    ret

# case: flags live through a jump
    cmp eax, ecx
    mov rdx, [rdi]
    jmp 1f
    nop
1:  seta al
    ret

# case: flags dead through both ways
    mov rdx, [rdi]
    jrcxz 1f
    xor eax, eax
    ret
1:  xor ecx, ecx
    ret

# case: page crossed by an instruction | at=0x401ffe
    mov rax, [rdi + 8]
    ret

# case: page ends the fragment | at=0x401ffd
    mov rax, rbx
    ret

# case: one instruction a fragment | step
    inc eax
    push rax
    jne 1f
    cli
1:
