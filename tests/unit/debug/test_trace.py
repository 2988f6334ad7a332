"""A trace's lines."""

from ringlet.core.state import Exit
from ringlet.debug.trace import lines
from ringlet.machine.causes import shutdown
from ringlet.vcpu.debug.blocks import Event, EventRecord
from tests.unit.debug.short import TO_32_BITS, WIDE, real

PAGED = f"""{TO_32_BITS}
        movl $0x83, 0x3000
        mov $0x3000, %eax
        mov %eax, %cr3
        mov $0x10, %eax
        mov %eax, %cr4
        mov $0x80000011, %eax
        mov %eax, %cr0
"""
"""Goes on with `TO_32_BITS` and turns paging on, with a page of 4 MiB; #PF has no gate."""


def event(kind: Event, cpl: int, rip: int, first: int, second: int, code: str) -> EventRecord:
    """Return an event of 64-bit code."""
    return EventRecord(kind, cpl, rip, first, second, rip, 0x10, 64, bytes.fromhex(code))


def test_each_event_is_a_line() -> None:
    events = [
        event(Event.BLOCK, 0, 0xFFFFFFFF81000040, 0xFFFFFFFF82803FD0, 0x2A10000, "4889f7 90"),
        event(Event.EXCEPTION, 3, 0x401136, 14 | 7 << 32, 0x7FFF0000, ""),
        event(Event.EXCEPTION, 0, 0xFFFFFFFF81000050, 6, 0, ""),
        event(Event.INTERRUPT, 3, 0x401140, 0xEC, 0, ""),
        event(Event.BLOCK, 0, 0x1000, 0, 0, "06"),
    ]
    assert list(lines(events)) == [
        "block 0 ffffffff81000040 rsp ffffffff82803fd0 cr3 2a10000: mov rdi,rsi",
        "exception 3 401136 #PF(0007) cr2 7fff0000",
        "exception 0 ffffffff81000050 #UD cr2 0",
        "interrupt 3 401140 vector ec",
        "block 0 1000 rsp 0 cr3 0: (bad)",
    ]


def test_segments_and_linear_addresses_of_real_and_protected_mode() -> None:
    """A far jump gives CS a base; then comes protected mode, and an exception there."""
    p = real(f".code16\nljmp $0x80, $there - 0x800\nthere: {TO_32_BITS} mov %esp, %ebp\nud2\n")
    p.watch_blocks(64)
    assert p.run() == Exit.EXIT_HLT

    found = list(lines(p.events()))

    assert "block 0 0000:1000 1000 sp 800 cr3 0: jmp 0080h:0805h" in found
    assert "block 0 0080:0811 1011 sp 800 cr3 0: mov eax,11h" in found
    assert "block 0 0008:00001105 1105 esp 800 cr3 0: mov ds,eax" in found
    assert f"block 0 0008:{WIDE + 2:08x} {WIDE + 2:x} esp 800 cr3 0: ud2" in found
    assert f"exception 0 0008:{WIDE + 2:08x} {WIDE + 2:x} #UD cr2 0" in found


def test_exception_of_an_emulated_instruction() -> None:
    """BOUND, which the general emulator performs; its handler is at 0:2000h."""
    p = real(".code16\nmovw $0x2000, 20\nmovw $0, 22\nbound %ax, 0x900\n")
    p.write_phys(0x900, b"\1\0\2\0")
    p.write_phys(0x2000, b"\xf4")
    p.watch_blocks(64)
    before = p.counters()["exceptions"]
    assert p.run() == Exit.EXIT_HLT

    assert "exception 0 0000:100c 100c #BR cr2 0" in list(lines(p.events()))
    assert p.counters()["exceptions"] == before + 1


def test_exceptions_up_to_a_triple_fault_each_with_its_cr2() -> None:
    """Without gates for #PF and #DF: each exception is a line, and the end's message has them."""
    p = real(PAGED + "wbinvd\nmov %eax, 0x12345678\n")
    p.set("cr2", 0x111)
    p.watch_blocks(64)
    assert p.run() == Exit.EXIT_SHUTDOWN

    found = [line.split(" ", 4)[4] for line in lines(p.events()) if line.startswith("exception")]

    assert found == [
        "#PF(0002) cr2 12345678",
        "#GP(0073) cr2 12345678",
        "#DF(0000) cr2 12345678",
        "#GP(0043) cr2 12345678",
    ]
    assert shutdown(p) == (
        "#PF(0002) at 0x12345678; its delivery raised #GP(0073), #DF(0000) and #GP(0043)"
    )


def test_a_second_page_fault_has_its_own_cr2() -> None:
    """The stack is not mapped, and the gate of #PF is used twice."""
    p = real(PAGED + "mov $idt, %edi\nmov 48(%edi), %eax\nmov %eax, 112(%edi)\n"
             "mov 52(%edi), %eax\nmov %eax, 116(%edi)\nmovw $119, idtr\nlidt idtr\n"
             "mov $0x23456790, %esp\nmov 0x12345678, %eax\n")
    p.watch_blocks(64)
    assert p.run() == Exit.EXIT_SHUTDOWN

    found = [line.split(" ", 4)[4] for line in lines(p.events()) if line.startswith("exception")]

    assert found[:2] == ["#PF(0000) cr2 12345678", "#PF(0002) cr2 2345678c"]
    assert found[2:] == ["#DF(0000) cr2 2345678c", "#GP(0043) cr2 2345678c"]


def test_software_interrupt_without_a_gate_names_it() -> None:
    p = real(TO_32_BITS + "int $0x80\n")
    p.set("rflags", 2)
    p.watch_blocks(64)
    assert p.run() == Exit.EXIT_HLT

    assert f"exception 0 0008:{WIDE:08x} {WIDE:x} #GP(0402) cr2 0" in list(lines(p.events()))


def test_interrupts_of_the_machines_controller_are_lines() -> None:
    p = real(".code16\nhlt\n")
    p.write_phys(0x20 * 4, b"\x00\x20\x00\x00")
    p.write_phys(0x2000, b"\xf4")
    p.set("rflags", 0x202)
    p.watch_blocks(64)
    p.inject(0x20)
    assert p.run() == Exit.EXIT_HLT

    assert list(lines(p.events())) == [
        "interrupt 0 0000:1000 1000 vector 20",
        "block 0 0000:2000 2000 sp 7fa cr3 0: hlt",
    ]
