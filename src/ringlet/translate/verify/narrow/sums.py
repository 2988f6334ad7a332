"""The sums of 64 bits by which translated code makes addresses and targets: rules 1, 2, 4, 6."""

from typing import Final

from iced_x86 import Instruction, Register_

from ringlet.translate.verify.narrow.values import (
    OTHER,
    SECRET,
    WHOLE_WINDOW,
    Kind,
    Value,
    displacement,
    full,
)

_LARGEST: Final = 4096
"""More bytes than any instruction accesses at once."""


def address_sum(
    host: Value,
    parts: list[Value],
    guest: list[tuple[Register_, Value]],
    i: Instruction,
    moved: int,
) -> Value:
    """Return the 64-bit sum of one or two values, of which `host` is not the guest's."""
    kinds = {value.kind for value in parts}
    one = len(guest) == 1 and len(parts) == 2
    if host.kind is Kind.SIZE and one and 0 <= moved < _LARGEST:
        return Value(Kind.LIMIT, host.segment, host.writes, moved + 1, full(guest[0][0]))
    same = one and host.register == guest[0][0] == i.op0_register
    if host.kind is Kind.SIGN and same and not moved:
        return Value(Kind.CHECKED, host.segment, host.writes, host.size)
    if host.kind in (Kind.WINDOW, Kind.REGION) and one and not moved:
        origin = host.origin if host.kind is Kind.WINDOW else i.ip
        return Value(Kind.HOST, origin=origin)
    if kinds == {Kind.CHECKED, Kind.SEGMENT} and not moved:
        checked, segment = sorted(parts, key=lambda value: value.kind is Kind.SEGMENT)
        if checked.segment == segment.segment:
            return Value(Kind.HOST, checked.segment, checked.writes, checked.size, origin=i.ip)
    if host.kind is Kind.PARAGRAPH and len(parts) == 2:
        size = next((value.placed for value in parts if value.placed), 0)
        if size and moved == 1 - size:
            return Value(Kind.HOST, host.segment, host.writes, size, origin=i.ip)
    back = len(parts) == 1 and host.origin == WHOLE_WINDOW
    if host.kind is Kind.INVERTED and moved == 1 and (one or back):
        return Value(Kind.BACK, origin=host.origin)
    return SECRET


def target_sum(i: Instruction, registers: list[Register_], parts: list[Value]) -> Value:
    """Return the 64-bit sum of values of the guest: a step towards a target, or any value."""
    if len(parts) != 2 or displacement(i) or i.memory_index_scale != 1:
        return OTHER
    kinds = {value.kind for value in parts}
    if kinds == {Kind.TWICE, Kind.BASE}:
        return Value(Kind.PLACE)
    for turned, register, value in zip(parts, reversed(registers), reversed(parts), strict=True):
        if turned.kind is Kind.TURNED and value.is_guest:
            return Value(Kind.TWICE if turned.register == register else Kind.PLACE)
    return OTHER


def takes_back(parts: list[Value]) -> bool:
    """Whether the sum is the guest's value of a string's address."""
    if len(parts) != 2 or parts[0].origin != parts[1].origin:
        return False
    kinds = {value.kind for value in parts}
    return kinds in ({Kind.HOST, Kind.BACK}, {Kind.PASSED, Kind.BACK})
