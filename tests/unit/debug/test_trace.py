"""A trace's lines."""

from ringlet.debug.trace import lines
from ringlet.vcpu.debug.blocks import Event


def test_each_event_is_a_line() -> None:
    events = [
        (Event.BLOCK, 0, 0xFFFFFFFF81000040, 0xFFFFFFFF82803FD0, 0x2A10000),
        (Event.EXCEPTION, 3, 0x401136, 14 | 7 << 32, 0x7FFF0000),
        (Event.EXCEPTION, 0, 0xFFFFFFFF81000050, 6, 0),
        (Event.INTERRUPT, 3, 0x401140, 0xEC, 0),
    ]
    assert list(lines(events)) == [
        "block 0 ffffffff81000040 rsp ffffffff82803fd0 cr3 2a10000",
        "exception 3 401136 #PF(0007) cr2 7fff0000",
        "exception 0 ffffffff81000050 #UD cr2 0",
        "interrupt 3 401140 vector ec",
    ]
