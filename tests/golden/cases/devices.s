# case: a load and a store that have met devices | devices
    mov eax, [rbx + 0x20]
    mov [rbx + rcx * 4], r9d
    ret

# case: an immediate, and a byte of AH | devices
    mov dword ptr [rip + 0x100], 7
    mov ah, [rdi]
    mov [rdi], bh

# case: extended reads | devices
    movzx eax, byte ptr [rsi]
    movsx r10, word ptr gs:[rsi + 2]
    movsxd rdx, dword ptr [rsp + 8]

# case: absolute addresses | devices
    movabs al, [0x1122334455667788]
    movabs fs:[0x10], rax

# case: other instructions of the fragment stay as they are | devices
    add eax, [rbx]
    mov edx, [rbx + 4]
    cmp eax, edx
    mov ecx, ebx
    jne .

# case: flags are whole where a device is accessed | devices
    add rax, rcx
    mov [rdi], rax
    add rax, rcx

# case: a single step faults at a device | devices step
    mov eax, [rbx]
