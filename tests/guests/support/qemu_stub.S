/* Brings QEMU's direct kernel boot (PVH, 32-bit protected mode without paging) to the state in
   which `ringlet run --bare` enters a program: long mode, first 4 GiB identity-mapped with 2-MiB
   pages, interrupts off. */
    .section .note.pvh, "a", @note
    .balign 4
    .long   4, 4, 18                    /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz  "Xen"
    .long   qemu_entry

    .section .stub, "awx", @progbits
    .code32
qemu_entry:
    cli
    movl    $stub_pd, %edi              /* four page directories of 2-MiB pages */
    movl    $0x83, %eax
    movl    $2048, %ecx
1:  movl    %eax, (%edi)
    movl    $0, 4(%edi)
    addl    $0x200000, %eax
    addl    $8, %edi
    loop    1b

    movl    $stub_pd + 3, %eax
    movl    $stub_pdpt, %edi
    movl    $4, %ecx
2:  movl    %eax, (%edi)
    movl    $0, 4(%edi)
    addl    $4096, %eax
    addl    $8, %edi
    loop    2b

    movl    $stub_pdpt + 3, stub_pml4
    movl    $stub_pml4, %eax
    movl    %eax, %cr3
    movl    $0x20, %eax                 /* CR4.PAE */
    movl    %eax, %cr4
    movl    $0xC0000080, %ecx           /* EFER.LME */
    rdmsr
    orl     $0x100, %eax
    wrmsr
    movl    %cr0, %eax
    orl     $0x80000001, %eax
    movl    %eax, %cr0
    lgdt    stub_gdtr
    ljmp    $8, $stub64

    .code64
stub64:
    movl    $16, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    xorl    %eax, %eax
    movl    %eax, %fs
    movl    %eax, %gs
    movl    $stub_stack_top, %esp
    jmp     _start

    .balign 8
stub_gdt:
    .quad   0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF
stub_gdtr:
    .word   23
    .long   stub_gdt
    .balign 4096
stub_pml4:
    .skip   4096
stub_pdpt:
    .skip   4096
stub_pd:
    .skip   16384
    .skip   4096
stub_stack_top:
    .section .note.GNU-stack, "", @progbits
