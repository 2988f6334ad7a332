# The boot sector of a Bochs disk: loads the SECTORS behind it to TO by INT 13h, opens the A20 gate,
# masks every interrupt, and enters them as `ringlet run --bare` does: in real mode at 0000:7C00
# with segments of 64 KiB, or, if ENTRY is not 0, there in protected mode with flat segments.

        .set BUFFER, 0x10000
        .set CHUNK, 64                  # sectors
        .set HERE, 0x600

        .code16
start:  cli
        cld
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7C00, %sp
        mov $0x7C00, %si                # out of the way of an image at 7C00h
        mov $HERE, %di
        mov $256, %cx
        rep movsw
        ljmp $0, $moved - start + HERE
        .org 0x20
moved:  mov %dl, drive - start + HERE
        in $0x92, %al
        or $2, %al
        out %al, $0x92
        mov $0x3FB, %dx                 # COM1 has 8 bits, which the BIOS leaves at 5
        mov $3, %al
        out %al, (%dx)
read:   sti
        mov $0x42, %ah
        mov drive - start + HERE, %dl
        mov $packet - start + HERE, %si
        int $0x13
        jc failed
        cli
        lgdtl gdtr - start + HERE
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmp $8, $copy - start + HERE
failed: hlt
        jmp failed

        .code32
copy:   mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %fs
        mov %eax, %gs
        mov %eax, %ss
        mov $BUFFER, %esi
        mov to - start + HERE, %edi
        mov $CHUNK * 512 / 4, %ecx
        rep movsl
        mov %edi, to - start + HERE
        addl $CHUNK, packet - start + HERE + 8
        subl $CHUNK, left - start + HERE
        jg narrow
        mov $0xFF, %al                  # the end
        out %al, $0x21
        out %al, $0xA1
        mov $ENTRY, %edx
        mov $0x2BADB002, %eax           # of Multiboot 1
        xor %ebx, %ebx
        test %edx, %edx
        jz narrow
        jmp *%edx
narrow: ljmp $24, $leave - start + HERE

        .code16
leave:  mov $32, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %fs
        mov %ax, %gs
        mov %ax, %ss
        mov $0x10, %eax                 # ET alone
        mov %eax, %cr0
        ljmp $0, $real - start + HERE
real:   xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %fs
        mov %ax, %gs
        mov %ax, %ss
        mov $0x7C00, %sp
        cmpl $0, left - start + HERE
        jg read
        mov $0xFFFE, %sp
        xor %eax, %eax
        xor %ebx, %ebx
        xor %ecx, %ecx
        xor %edx, %edx
        xor %esi, %esi
        xor %edi, %edi
        ljmp $0, $0x7C00

drive:  .byte 0
        .balign 8
packet: .byte 16, 0                     # of INT 13h, AH = 42h: CHUNK sectors from 1 on to BUFFER
        .word CHUNK, 0, BUFFER >> 4
        .quad 1
to:     .long TO
left:   .long SECTORS
        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00009B000000FFFF, 0x000093000000FFFF
gdtr:   .word gdtr - gdt - 1
        .long gdt - start + HERE
        .org 510
        .byte 0x55, 0xAA
