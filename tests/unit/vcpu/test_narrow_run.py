"""Programs that change mode, ring and task, run by translated code and the system's operations."""

from tests.unit.vcpu.narrow_run import Program

# Segment descriptors: 08h code, 10h data, 18h 16-bit code, 20h 16-bit data, 28h and 30h of ring 3.
TABLES = """
        .weak gate_code, task_b, monitor, done
        .balign 8
gdt:    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00009B000000FFFF, 0x000093000000FFFF
        .quad 0x00CFFB000000FFFF, 0x00CFF3000000FFFF
        .word 0x67, tss_a, 0x8900, 0, 0x67, tss_b, 0x8900, 0         # 38h, 40h
        .word gate_code, 8, 0xEC02, 0        # 48h: a call gate, 2 parameters
        .word 0, 0x40, 0xE500, 0                                     # 50h: a task gate
end:
gdtr:   .word end - gdt - 1
        .long gdt
        .balign 8
idt:    .fill 13, 8, 0
        .word monitor, 8, 0x8E00, 0          # 0Dh
        .fill 0x12, 8, 0
        .word done, 8, 0xEE00, 0             # 20h
idtr:   .word 0x107
        .long idt
        .balign 4
tss_a:  .long 0, 0x700, 0x10
        .fill 23, 4, 0
tss_b:  .long 0, 0x600, 0x10, 0, 0, 0, 0, 0, task_b, 2, 0, 0, 0, 0xB0B, 0x500, 0, 0, 0
        .long 0x10, 8, 0x10, 0x10, 0, 0, 0, 0
"""

ENTER = """
        .code16
        cli
        lgdtl gdtr
        lidtl idtr
        mov $0x11, %eax
        mov %eax, %cr0
        ljmpl $8, $start
        .code32
start:  mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $0x800, %esp
        mov $0x38, %eax
        ltr %ax
"""


def test_real_mode_interrupts_and_returns() -> None:
    p = Program("""
        .code16
        xor %ax, %ax
        mov %ax, %ds
        movw $handler, 0x21*4
        movw $0, 0x21*4+2
        mov $0x2000, %ax
        mov %ax, %es
        mov $5, %cx
again:  int $0x21
        loop again
        lcall $0x100, $there-0x1000
        hlt
handler:
        incw %es:0
        iretw
there:  mov %cs, %es:4
        mov %sp, %es:8
        lretw
    """)
    assert p.halted()
    assert p.results(3) == [5, 0x100, 0x7FC]
    assert p.get("rsp") == 0x800


def test_protected_mode_and_back_to_unreal_mode() -> None:
    p = Program(
        ENTER
        + """
        movl $0x12345678, 0x20000
        ljmp $0x18, $narrow
        .code16
narrow: mov $0x10, %ax
        mov %ax, %fs
        mov $0x10, %eax
        mov %eax, %cr0
        ljmpw $0, $real
real:   xor %ax, %ax
        mov %ax, %fs
        mov %ax, %ss
        mov $0x300000, %ebx
        movl $0xCAFE, %fs:(%ebx)
        mov %fs:(%ebx), %ecx
        mov $0x2000, %ax
        mov %ax, %ds
        mov %ecx, 4
        hlt
    """
        + TABLES
    )
    assert p.halted()
    assert p.results(2) == [0x12345678, 0xCAFE]
    assert p.get("cr0") & 1 == 0


def test_ring_3_calls_a_gate_and_returns() -> None:
    p = Program(
        ENTER
        + """
        pushl $0x33
        pushl $0x400
        pushl $0x2B
        pushl $user
        lret
user:   mov $0x33, %eax
        mov %eax, %ds
        pushl $0x1111
        pushl $0x2222
        lcall $0x48, $0
        mov %esp, 0x2000C
        mov %cs, %eax
        mov %eax, 0x20010
        int $0x20
gate_code:
        mov 12(%esp), %eax
        mov %eax, %ss:0x20000
        mov 8(%esp), %eax
        mov %eax, %ss:0x20004
        mov %esp, %ss:0x20008
        lret $8
done:   hlt
    """
        + TABLES
    )
    assert p.halted()
    assert p.results(5) == [0x1111, 0x2222, 0x700 - 24, 0x400, 0x2B]
    assert p.get("cpl") == 0
    assert p.get("rsp") == 0x700 - 20


def test_tasks_call_and_return() -> None:
    p = Program(
        ENTER
        + """
        mov $0xA, %ebx
        lcall $0x40, $0
        mov %ebx, 0x20000
        lcall $0x50, $0
        pushfl
        popl 0x20008
        hlt
task_b: mov %ebx, %edx
        inc %ebx
        mov %ebx, 0x20004
        iret
        jmp task_b
    """
        + TABLES
    )
    assert p.halted()
    assert p.results(3) == [0xA, 0xB0D, 2]
    assert p.get("cr0") & 8


def test_virtual_8086_program_and_its_monitor() -> None:
    p = Program(
        ENTER
        + """
        pushl $0        # GS
        pushl $0
        pushl $0x2000   # DS
        pushl $0
        pushl $0x3000   # SS
        pushl $0x100
        pushl $0x20002  # VM, IOPL 0
        pushl $0x100
        pushl $guest - 0x1000
        iret
        .code16
guest:  mov $7, %ax
        mov %ax, 0
        mov %sp, 4
        cli             # the monitor skips it
        incw 0
        hlt             # and ends here
        .code32
monitor:
        mov $0x10, %eax # the interrupt has made DS null
        mov %eax, %ds
        mov 4(%esp), %eax
        add $0x1000, %eax
        cmpb $0xF4, (%eax)
        je done
        incl 4(%esp)
        add $4, %esp
        iret
done:   hlt
    """
        + TABLES
    )
    assert p.halted()
    assert p.results(2) == [8, 0x100]
    assert p.get("cpl") == 0


def test_two_level_paging_and_pae() -> None:
    p = Program(
        ENTER
        + """
        movl $0x83, 0x10000             # a page directory with pages of 4 MiB
        movl $0x83, 0x10004
        movl $0x10000, %eax
        mov %eax, %cr3
        movl $0x10, %eax
        mov %eax, %cr4
        movl $0x80000011, %eax
        mov %eax, %cr0
        movl $0x11, 0x420000            # linear 4 MiB is physical 0
        movl $0x11, %eax
        mov %eax, %cr0
        movl $0x11001, 0x10000          # page-directory pointers, then pages of 2 MiB
        movl $0, 0x10004
        movl $0, 0x10008
        movl $0, 0x1000C
        movl $0, 0x10010
        movl $0, 0x10018
        movl $0x83, 0x11000
        movl $0, 0x11004
        movl $0x83, 0x11018
        movl $0, 0x1101C
        movl $0x20, %eax
        mov %eax, %cr4
        movl $0x80000011, %eax
        mov %eax, %cr0
        movl $0x22, 0x620004            # linear 6 MiB is physical 0
        hlt
    """
        + TABLES
    )
    assert p.halted()
    assert p.results(2) == [0x11, 0x22]


def test_long_mode_runs_compatible_code_and_returns() -> None:
    p = Program(
        ENTER
        + """
        movl $0x11003, 0x10000
        movl $0x12003, 0x11000
        movl $0x83, 0x12000
        movl $0x10000, %eax
        mov %eax, %cr3
        movl $0x20, %eax
        mov %eax, %cr4
        movl $0xC0000080, %ecx
        rdmsr
        or $0x100, %eax
        wrmsr
        movl $0x80000011, %eax
        mov %eax, %cr0
        movl $0x22, 0x20000             # in compatibility mode
        mov $wide_idtr, %edx
        mov $compatible, %ebx
        ljmp $0x58, $wide
        .code64
wide:   lidt (%rdx)
        mov $0x123456789ABCDEF0, %rax
        mov %rax, 0x20008
        pushq $0x10
        pushq $0x900
        pushq $2
        pushq $8
        pushq %rbx
        iretq
handler:
        movl $0x44, 0x20010
        iretq
        .code32
compatible:
        mov %esp, 0x20004
        int $0x21
        incl 0x20010
        hlt
        .balign 8
wide_idt:
        .fill 0x42, 8, 0
        .word handler, 0x58, 0x8E00, 0, 0, 0, 0, 0
wide_idtr:
        .word 0x21F
        .long wide_idt, 0
    """
        + TABLES.replace("end:", "        .quad 0x00AF9B000000FFFF # 58h: 64-bit code\nend:")
    )
    assert p.halted()
    assert p.results(5) == [0x22, 0x900, 0x9ABCDEF0, 0x12345678, 0x45]
    assert p.get("rsp") == 0x900


def test_page_fault_of_ring_3_reaches_its_handler() -> None:
    p = Program(
        ENTER
        + """
        movl $0x11007, 0x10000
        xor %ecx, %ecx
fill:   mov %ecx, %eax
        shl $12, %eax
        or $7, %eax
        mov %eax, 0x11000(,%ecx,4)
        inc %ecx
        cmp $0x100, %ecx
        jb fill
        movl $0, 0x11200                # page 80h is absent
        movl $0x10000, %eax
        mov %eax, %cr3
        movl $0x80000011, %eax
        mov %eax, %cr0
        pushl $0x33
        pushl $0x400
        pushl $0x2B
        pushl $user
        lret
user:   mov $0x33, %eax
        mov %eax, %ds
        movl $1, 0x80123
task_b:
monitor:
        pop %eax                        # the error code
        mov %eax, 0x20000
        mov %cr2, %eax
        mov %eax, 0x20004
        pop %eax                        # EIP
        subl $user, %eax
        mov %eax, 0x20008
        hlt
    """
        + TABLES.replace("idt:    .fill 13, 8, 0\n", "idt:    .fill 14, 8, 0\n").replace(
            ".fill 0x12, 8, 0", ".fill 0x11, 8, 0"
        )
    )
    assert p.halted()
    assert p.results(3) == [6, 0x80123, 7]
