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

SIZE_64K: Final = 1 << 16

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
        offset = next((value for value in parts if value.placed), OTHER)
        if offset.placed and moved == -offset.ahead:
            return Value(Kind.HOST, host.segment, host.writes, offset.placed, origin=i.ip)
    if host.kind is Kind.PARAGRAPH and len(parts) == 1 and 0 <= moved < SIZE_64K:
        return Value(Kind.HOST, host.segment, host.writes, SIZE_64K - moved, origin=i.ip)
    back = len(parts) == 1 and host.origin == WHOLE_WINDOW
    if host.kind is Kind.INVERTED and moved == 1 and (one or back):
        return Value(Kind.BACK, origin=host.origin)
    return SECRET


def target_sum(i: Instruction, parts: list[Value]) -> Value:
    """Return the 64-bit sum of values of the guest: a target with the base of CS, or any value."""
    if len(parts) != 2 or displacement(i) or i.memory_index_scale != 1:
        return OTHER
    based = any(value.kind is Kind.BASE for value in parts)
    return Value(Kind.PLACE) if based and any(value.is_guest for value in parts) else OTHER


def takes_back(parts: list[Value]) -> bool:
    """Whether the sum is the guest's value of a string's address."""
    if len(parts) != 2 or parts[0].origin != parts[1].origin:
        return False
    kinds = {value.kind for value in parts}
    return kinds in ({Kind.HOST, Kind.BACK}, {Kind.PASSED, Kind.BACK})
