# 16- and 32-bit code: the window of 4 GiB is at r10.

# case: operands in flat segments | bits=32 at=0x100000
    mov eax, [ebx]
    mov [ebx + ecx*4 + 8], eax
    mov al, [0x12345678]
    mov eax, fs:[0x10]
    mov ax, [bx + si]
    inc eax
    lea eax, [ebx + ecx*8]
    movups xmm0, [esi]

# case: the flat stack | bits=32 at=0x100000
    push ebp
    mov ebp, esp
    push dword ptr [ebp + 8]
    pop dword ptr [esp + 4]
    leave
    ret

# case: branches of 32-bit code | bits=32 at=0x100000
    call 1f
    jz 1f
    jecxz 1f
    loop 1f
    jmp eax
1:  call [ebx]

# case: segments that are not flat | bits=32 at=0x100000 segmented
    mov eax, [ebx]
    mov [ebp + 4], eax
    push eax

# case: real mode | bits=16 at=0x7c00 segmented stack16 cs64k
    cli
    mov ax, [bx + si]
    mov es:[di], ax
    mov [0x1234], al
    push ax
    lodsb
    int 0x10
    ret

# case: what the emulator performs | bits=16 at=0x7c00 segmented stack16 cs64k
    pusha
    aaa
    rep movsb
    bound ax, [bx]
    les di, [bx]
