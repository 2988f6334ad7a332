/* Real mode, for the program `real`: the way there and back, and the 16-bit code of its sections.
 *
 * Paging is off there; the kernel is mapped identically.  The code is at CODE:0; data segments of
 * 64 KiB are at DATA, MORE and STACK. */
#include "kernel.h"

#define CODE 0x1000
#define STACK 0x2000
#define DATA 0x3000
#define MORE 0x4000

    .section .ktext, "ax"
/* uint32_t real_mode(long section): runs a section, returns its checksum. */
    .globl real_mode
real_mode:
    push %ebx
    push %esi
    push %edi
    push %ebp
    push %ds                            /* the program's: an IRET to ring 3 clears the kernel's */
    push %es
    mov 28(%esp), %ebx
    mov %esp, saved_esp
    sidt saved_idtr
    mov $real_image, %esi
    mov $CODE << 4, %edi
    mov $real_image_end - real_image, %ecx
    cld
    rep movsb
    mov %cr0, %eax
    and $0x7fffffff, %eax               /* PG */
    mov %eax, %cr0
    lidt real_idtr
    ljmp $REAL_CODE, $leave_protected - real_image

back:
    mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov saved_esp, %esp
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    lidt saved_idtr
    mov %ebp, %eax
    pop %es
    pop %ds
    pop %ebp
    pop %edi
    pop %esi
    pop %ebx
    ret

    .section .kdata, "aw"
    .balign 4
real_idtr:
    .word 0x3ff
    .long 0

    .code16
real_image:
leave_protected:
    mov $REAL_DATA, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %gs
    mov %ax, %ss
    mov %cr0, %eax
    and $~1, %al                        /* PE */
    mov %eax, %cr0
    ljmp $CODE, $1f - real_image
1:  mov $STACK, %ax
    mov %ax, %ss
    mov $0xfffe, %sp
    mov $DATA, %ax
    mov %ax, %ds
    mov $MORE, %ax
    mov %ax, %es
    cld
    shl $1, %bx
    call *%cs:sections - real_image(%bx)
    movzwl %ax, %ebp
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $KERNEL_CODE, $back

    .balign 2
sections:
    .word sieve - real_image, copy - real_image, scan - real_image, translate - real_image
    .word sort - real_image, pointers - real_image, fib - real_image, numbers - real_image
    .word software_interrupts - real_image

/* The sieve of Eratosthenes over 64 KiB. */
sieve:
    mov $240, %bp
1:  xor %di, %di
    mov $0x8000, %cx
    xor %ax, %ax
    rep stosw
    mov $2, %si
2:  cmpb $0, %es:(%si)
    jne 4f
    mov %si, %di
3:  add %si, %di
    jc 4f
    movb $1, %es:(%di)
    jmp 3b
4:  inc %si
    cmp $0x100, %si
    jne 2b
    dec %bp
    jnz 1b
    xor %ax, %ax
    xor %si, %si
5:  cmpb $1, %es:(%si)
    adc $0, %ax
    inc %si
    jnz 5b
    ret

/* REP MOVSW from segment to segment. */
copy:
    call fill
    mov $1600, %bp
1:  xor %si, %si
    xor %di, %di
    mov $0x4000, %cx
    rep movsw
    dec %bp
    jnz 1b
    mov %es:0x7ffe, %ax
    ret

/* REPNE SCASB over a segment, and REPE CMPSB of two. */
scan:
    call copy_once
    mov $400, %bp
    xor %bx, %bx
1:  xor %di, %di
    mov $0x8000, %cx
    mov $0xff, %al                      /* `fill` writes none */
    repne scasb
    add %cx, %bx
    xor %si, %si
    xor %di, %di
    mov $0x8000, %cx
    repe cmpsb
    add %cx, %bx
    add %di, %bx
    dec %bp
    jnz 1b
    mov %bx, %ax
    ret

copy_once:
    call fill
    xor %si, %si
    xor %di, %di
    mov $0x4000, %cx
    rep movsw
    ret

/* Bytes of a generator at DS:0, 32 KiB of them, none of which is FFh. */
fill:
    push %es
    mov %ds, %ax
    mov %ax, %es
    xor %di, %di
    mov $0x8000, %cx
    mov $1, %bx
1:  mov %bx, %ax
    shl $5, %ax
    add %ax, %bx
    add $0x3a7, %bx
    mov %bh, %al
    and $0x7f, %al
    stosb
    loop 1b
    pop %es
    ret

/* A character table: LODSB, XLATB, STOSB, LOOP. */
translate:
    call fill
    mov $0x9000, %bx
    xor %si, %si
1:  mov %si, %ax
    xor $0x20, %al
    mov %al, (%bx,%si)
    inc %si
    cmp $256, %si
    jne 1b
    mov $480, %bp
2:  xor %si, %si
    xor %di, %di
    mov $0x8000, %cx
3:  lodsb
    xlatb
    stosb
    loop 3b
    dec %bp
    jnz 2b
    mov %es:0x7ffe, %ax
    ret

/* Bubble sort of 512 words. */
sort:
    mov $64, %bp
1:  push %bp
    call fill
    mov $511, %cx
2:  xor %si, %si
    mov %cx, %dx
3:  mov (%si), %ax
    cmp 2(%si), %ax
    jbe 4f
    xchg 2(%si), %ax
    mov %ax, (%si)
4:  add $2, %si
    dec %dx
    jnz 3b
    loop 2b
    pop %bp
    dec %bp
    jnz 1b
    mov 0x200, %ax
    ret

/* A list of far pointers through many segments: LES. */
pointers:
    push %es
    mov $DATA, %ax
    mov %ax, %es
    mov $1024, %cx
1:  mov %es, %dx
    add $7, %dx                         /* the next element's segment, 112 bytes on */
    movw $0, %es:0
    mov %dx, %es:2
    mov %cx, %es:4
    mov %dx, %es
    loop 1b
    movw $0, %es:0
    movw $DATA, %es:2
    movw $1, %es:4
    mov $DATA, %ax
    mov %ax, %es
    xor %bx, %bx
    xor %ax, %ax
    mov $320, %bp
2:  mov $0x8000, %cx
3:  add %es:4(%bx), %ax
    les %es:(%bx), %bx
    loop 3b
    dec %bp
    jnz 2b
    pop %es
    ret

/* Recursion with frames, as compilers for DOS made them. */
fib:
    mov $32, %si
1:  mov $23, %ax
    push %ax
    call fib_of
    add $2, %sp
    dec %si
    jnz 1b
    ret
fib_of:
    push %bp
    mov %sp, %bp
    mov 4(%bp), %ax
    cmp $2, %ax
    jb 1f
    dec %ax
    push %ax
    call fib_of
    add $2, %sp
    push %ax
    mov 4(%bp), %ax
    sub $2, %ax
    push %ax
    call fib_of
    add $2, %sp
    pop %dx
    add %dx, %ax
1:  pop %bp
    ret

/* Decimal digits of 32-bit numbers: DIV, MUL, PUSH, POP, STOSB. */
numbers:
    mov $0xffff, %bp
    xor %si, %si
1:  mov %bp, %ax
    mov $0x9e37, %cx
    mul %cx
    xor %di, %di
    mov $10, %bx
    xor %cx, %cx
    push %ax
    mov %dx, %ax
    xor %dx, %dx
    div %bx
    pop %ax
2:  div %bx
    push %dx
    inc %cx
    xor %dx, %dx
    or %ax, %ax
    jnz 2b
3:  pop %ax
    add $0x30, %al
    stosb
    add %ax, %si
    loop 3b
    dec %bp
    jnz 1b
    mov %si, %ax
    ret

/* INT and IRET, as programs call DOS. */
software_interrupts:
    push %ds
    xor %ax, %ax
    mov %ax, %ds
    movw $handler - real_image, 0x60 * 4
    movw $CODE, 0x60 * 4 + 2
    pop %ds
    mov $40, %bp
    xor %ax, %ax
1:  mov $10000, %cx
2:  int $0x60
    loop 2b
    dec %bp
    jnz 1b
    ret
handler:
    inc %ax
    iret
real_image_end:

    .code32
    .section .kbss, "aw", @nobits
    .balign 4
saved_esp:
    .skip 4
saved_idtr:
    .skip 6
