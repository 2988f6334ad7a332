"""`Value` and `Facts`: what the verifier of 16- and 32-bit code knows about registers."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, Self

from iced_x86 import Instruction, Register, Register_, RegisterExt

NONE: Final = -1
WHOLE_WINDOW: Final = -2
"""The origin of addresses in the window that begins at r10."""


class UnsoundError(Exception):
    """Raised where the contract does not hold; the message says why."""


class Kind(Enum):
    """Kinds of 64-bit value."""

    GUEST = auto()  # 32 bits of the guest, above them zeros
    LOW16 = auto()  # the same, and the low 16 bits of `register`
    COUNT = auto()  # 63
    SHORT = auto()  # 16 bits of the guest, above them zeros
    SPAN = auto()  # a SHORT plus `size` less 1
    PLACED = auto()  # a SPAN whose bit 16 has been moved to bit 62
    FIRST = auto()  # an offset with `size` bytes in 64 KiB, or less than that many below 4 GiB
    OTHER = auto()  # 64 bits made without a host address
    PART = auto()  # `size` low bytes of the guest, above them anything
    SECRET = auto()  # anything, perhaps made with a host address
    WINDOW = auto()  # r10
    REGION = auto()  # a window's address for FS or GS, or no canonical address
    SEGMENT = auto()  # a segment's host address with bit 63 inverted
    SIZE = auto()  # minus a segment's size
    LIMIT = auto()  # negative exactly if `size` bytes at offset `register` are in the segment
    BIT = auto()  # bit 63 of a LIMIT, in bit 0
    SIGN = auto()  # bit 63 of a LIMIT, in bit 63
    CHECKED = auto()  # an offset plus its SIGN
    PARAGRAPH = auto()  # the host address of a segment of 64 KiB, or no canonical one
    HOST = auto()  # an address that may be accessed; `size` bytes of it, or 0 in a whole window
    PASSED = auto()  # a HOST that a string instruction has moved
    INVERTED = auto()  # NOT of a HOST or of r10
    BACK = auto()  # what takes a HOST of this origin back to the guest's value
    SOURCE = auto()  # the address of the guest byte at offset `size`
    BASE = auto()  # 32 bits of the guest, such as the base of CS, in the upper half alone
    RECALLED = auto()  # a piece of a segment that belongs in the field at offset `size`
    PLACE = auto()  # the base of CS in the upper half and an EIP in the lower one


_GUEST: Final = frozenset({Kind.GUEST, Kind.LOW16, Kind.COUNT, Kind.SHORT, Kind.SPAN, Kind.FIRST})
_MADE_OF_GUEST: Final = frozenset(
    {Kind.OTHER, Kind.BASE, Kind.PLACE, Kind.PLACED}
)


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a register.

    `writes` says whether the check was one for writes.  `origin` is where a HOST was computed.
    """

    kind: Kind
    segment: int = NONE
    writes: bool = False
    size: int = 0
    register: Register_ = Register.NONE
    origin: int = NONE

    @property
    def is_guest(self) -> bool:
        """Whether the value has 32 bits of the guest and zeros above them."""
        return self.kind in _GUEST

    @property
    def placed(self) -> int:
        """For how many bytes the value is a checked offset in a segment of 64 KiB, or 0."""
        if self.kind in (Kind.SHORT, Kind.LOW16):
            return 1
        return self.size if self.kind in (Kind.PLACED, Kind.FIRST) else 0

    @property
    def ahead(self) -> int:
        """How far a checked offset in a segment of 64 KiB is behind that of the first byte."""
        return self.size - 1 if self.kind is Kind.PLACED else 0

    @property
    def is_public(self) -> bool:
        """Whether the value was made without a host address."""
        return self.is_guest or self.kind in _MADE_OF_GUEST

    def is_readable(self, size: int) -> bool:
        """Whether its low `size` bytes were made without a host address."""
        return self.is_public or (self.kind is Kind.PART and size <= self.size)

    @property
    def alone(self) -> "Value":
        """What the value is where nothing is known of its `register`."""
        if not self.register:
            return self
        if self.is_guest:
            return GUEST
        return OTHER if self.is_public else SECRET

    def after(self, kind: Kind) -> "Value":
        """Return the value of the next step of a check."""
        return replace(self, kind=kind)


GUEST: Final = Value(Kind.GUEST)
OTHER: Final = Value(Kind.OTHER)
COUNT: Final = Value(Kind.COUNT)
SHORT: Final = Value(Kind.SHORT)
SECRET: Final = Value(Kind.SECRET)
WINDOW: Final = Value(Kind.WINDOW, origin=WHOLE_WINDOW)
R8: Final[Register_] = Register.R8
R9: Final[Register_] = Register.R9
R10: Final[Register_] = Register.R10
R11: Final[Register_] = Register.R11
SCRATCH: Final = (R8, R9)
GENERAL: Final[tuple[Register_, ...]] = (
    Register.RAX,
    Register.RCX,
    Register.RDX,
    Register.RBX,
    Register.RSP,
    Register.RBP,
    Register.RSI,
    Register.RDI,
)
"""The host registers of the guest's eight."""
WRITABLE: Final = frozenset((*GENERAL, R8, R9, R11))
"""The host registers that translated code changes."""


def full(register: Register_) -> Register_:
    """Return the 64-bit register of which `register` is a part."""
    return RegisterExt.full_register(register)


def displacement(i: Instruction) -> int:
    """Return the displacement of the memory operand as a signed number."""
    value = i.memory_displacement
    return value - (value >> 63 << 64)


@dataclass(slots=True)
class Facts:
    """What the registers hold at one place, and the fields that carry values for a while."""

    registers: dict[Register_, Value]
    scratch: list[Value]
    old: list[Value]
    operation: int = NONE
    fragment: bool = False

    @classmethod
    def at_entry(cls) -> Self:
        """Return the facts with which a fragment is entered or resumed."""
        held: dict[Register_, Value] = dict.fromkeys(GENERAL, GUEST)
        held.update({R8: SECRET, R9: SECRET, R10: WINDOW, R11: COUNT})
        return cls(held, [SECRET, SECRET], [SECRET, SECRET])

    def copy(self) -> "Facts":
        """Return the facts of another path."""
        return replace(
            self, registers=dict(self.registers), scratch=list(self.scratch), old=list(self.old)
        )

    def value(self, register: Register_) -> Value:
        """Return what the whole register holds."""
        return self.registers.get(full(register), SECRET)

    def set(self, register: Register_, value: Value) -> None:
        """Give the whole register a value; what was said of its former value no longer holds."""
        written = full(register)
        if written not in WRITABLE:
            raise UnsoundError("it changes r10, or a register that translated code does not have")
        self.registers[written] = value
        for other, held in self.registers.items():
            if held.register == written:
                self.registers[other] = held.alone

    def begin(self) -> None:
        """Begin a guest instruction, to which r9 may bring 32 bits of the guest, and r8 nothing."""
        self.at_rest()
        fresh = Facts.at_entry()
        if self.registers[R9].is_guest:
            fresh.registers[R9] = GUEST
        self.registers, self.scratch, self.old = fresh.registers, fresh.scratch, fresh.old
        self.operation = NONE

    def guest_is_whole(self, but: Collection[Register_] = ()) -> None:
        """Raise unless the guest's registers hold 32-bit values of the guest, `but` excepted."""
        for register in GENERAL:
            if register not in but and not self.registers[register].is_guest:
                raise UnsoundError("a register of the guest does not hold a 32-bit value")

    def at_rest(self) -> None:
        """Raise unless the registers are as between two guest instructions."""
        self.guest_is_whole()
        if self.registers[R11] != COUNT:
            raise UnsoundError("r11 is not 63")

    def merge(self, other: "Facts") -> "Facts":
        """Return what holds on both paths."""
        return Facts(
            {r: _both(value, other.registers[r]) for r, value in self.registers.items()},
            [_both(*pair) for pair in zip(self.scratch, other.scratch, strict=True)],
            [_both(*pair) for pair in zip(self.old, other.old, strict=True)],
            self.operation if self.operation == other.operation else NONE,
            self.fragment and other.fragment,
        )


def _both(one: Value, two: Value) -> Value:
    if one == two:
        return one
    if one.is_guest and two.is_guest:
        return GUEST
    return OTHER if one.is_public and two.is_public else SECRET
