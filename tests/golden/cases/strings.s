# Strings, of elements and of bits, and addresses that are values.

# case: string instructions
    movsb
    rep movsq
    rep stosd
    lodsw
    repne scasb
    repe cmpsb
    ret

# case: string instructions that leave
    rep movs dword ptr [edi], dword ptr [esi]
    movs byte ptr [rdi], byte ptr gs:[rsi]
    ret

# case: bit strings
    bt [rdi], rax
    lock bts [rdi + 8], ecx
    btr [rip + 0x100], r9
    btc [rsp + 8], rax
    bt [rdi], ax
    bt qword ptr [rdi], 5
    bt rcx, rax
    ret

# case: LEA
    lea rax, [rdi + rcx*4 + 8]
    lea r9, [rdi]
    lea rax, [r9 + r10*2]
    lea eax, [rdi + rdi]
    lea ax, [rdi]
    lea r9w, [r10]
    lea rax, [rip + 0x100]
    lea eax, [rip + 0x100]
    lea r9, [rip + 0x100]
    lea rsp, [rsp + rax]
    ret

# case: XLAT
    xlatb
    xor eax, eax
    ret

# case: hints
    prefetcht0 [rdi]
    clflush [rdi]
    pause
    ret
