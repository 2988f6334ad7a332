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

# case: PUSHA, REP and segment registers | bits=32 at=0x100000 segmented
    pusha
    rep movsb
    push ds
    mov eax, fs

# case: operations that do not leave at CPL 0 | bits=32 at=0x100000
    cli
    rdtsc
    push fs
    rep stosd

# case: 16-bit code in segments of any limit | bits=16 at=0x7c00 segmented stack16 cs64k
    mov ax, [bx + si]
    mov es:[di], ax
    push ax
    pusha
    les di, [bx]

# case: real mode | bits=16 at=0x7c00 segmented stack16 cs64k data64k paragraphs
    cli
    mov ax, [bx + si]
    mov es:[di], ax
    mov [0x1234], al
    push ax
    lodsb
    int 0x10
    ret

# case: segment registers of real mode | bits=16 at=0x7c00 segmented stack16 cs64k data64k paragraphs
    mov ds, ax
    pop es
    les di, [bx]
    mov ss, ax

# case: what the emulator performs | bits=16 at=0x7c00 segmented stack16 cs64k data64k paragraphs
    aaa
    bound ax, [bx]
    mov eax, [ebx]
