"""AAA, AAS, AAM, AAD, DAA, DAS and SALC, which 64-bit hosts do not have (SDM 2A, 2B; 1 7.3.4)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from iced_x86 import Instruction, Mnemonic, Mnemonic_

from ringlet.vcpu.emulation.access import Accesses
from ringlet.vcpu.emulation.native import Native
from ringlet.vcpu.emulation.operands import RAX

_CF: Final = 1 << 0
_PF: Final = 1 << 2
_AF: Final = 1 << 4
_ZF: Final = 1 << 6
_SF: Final = 1 << 7
_OF: Final = 1 << 11
_STATUS: Final = _CF | _PF | _AF | _ZF | _SF | _OF
_DE: Final = 0


class Adjusted(NamedTuple):
    """AX and the status flags after an instruction."""

    ax: int
    flags: int


def _result_flags(al: int) -> int:
    """Return SF, ZF and PF of a byte."""
    return (
        al & _SF | (_ZF if al == 0 else 0) | (_PF if al.bit_count() & 1 == 0 else 0)
    )  # fmt: skip


def daa(ax: int, flags: int) -> Adjusted:
    """Adjust AL after the addition of two packed decimal bytes; OF is undefined."""
    return _packed(ax, flags, 1)


def das(ax: int, flags: int) -> Adjusted:
    """Adjust AL after the subtraction of two packed decimal bytes; OF is undefined."""
    return _packed(ax, flags, -1)


def _packed(ax: int, flags: int, sign: int) -> Adjusted:
    before = al = ax & 0xFF
    result = 0
    if al & 0xF > 9 or flags & _AF:
        al += 6 * sign
        # DAA's carry from here counts only with the one below, which then is there too.
        result = _AF | (_CF if sign < 0 and al < 0 else 0)
    if before > 0x99 or flags & _CF:
        al += 0x60 * sign
        result |= _CF
    al &= 0xFF
    return Adjusted(ax & 0xFF00 | al, result | _result_flags(al))


def aaa(ax: int, flags: int) -> Adjusted:
    """Adjust AX after the addition of two decimal digits; only CF and AF are defined."""
    return _unpacked(ax, flags, 0x106)


def aas(ax: int, flags: int) -> Adjusted:
    """Adjust AX after the subtraction of two decimal digits; only CF and AF are defined."""
    return _unpacked(ax, flags, -0x106)


def _unpacked(ax: int, flags: int, step: int) -> Adjusted:
    result = 0
    if ax & 0xF > 9 or flags & _AF:
        ax += step
        result = _CF | _AF
    ax &= 0xFF0F
    return Adjusted(ax, result | _result_flags(ax & 0xFF))


def aam(ax: int, base: int) -> Adjusted:
    """Divide AL by `base`, not 0, into AH and AL; CF, AF and OF are undefined."""
    high, low = divmod(ax & 0xFF, base)
    return Adjusted(high << 8 | low, _result_flags(low))


def aad(ax: int, base: int) -> Adjusted:
    """Add AH times `base` to AL, and clear AH; CF, AF and OF are undefined."""
    al = (ax & 0xFF) + (ax >> 8) * base & 0xFF
    return Adjusted(al, _result_flags(al))


_BY_FLAGS: Final[Mapping[Mnemonic_, Callable[[int, int], Adjusted]]] = MappingProxyType(
    {Mnemonic.AAA: aaa, Mnemonic.AAS: aas, Mnemonic.DAA: daa, Mnemonic.DAS: das}
)
_BY_BASE: Final[Mapping[Mnemonic_, Callable[[int, int], Adjusted]]] = MappingProxyType(
    {Mnemonic.AAM: aam, Mnemonic.AAD: aad}
)


class Decimal:
    """AAA, AAS, AAM, AAD, DAA or DAS; AAM by 0 raises #DE."""

    __slots__ = ("_base", "_divides_by_0", "_function", "_length")

    def __init__(self, native: Native, instruction: Instruction) -> None:
        del native
        mnemonic = instruction.mnemonic
        self._length = instruction.len
        self._base = instruction.immediate8 if mnemonic in _BY_BASE else -1
        self._divides_by_0 = mnemonic == Mnemonic.AAM and self._base == 0
        self._function = _BY_BASE.get(mnemonic) or _BY_FLAGS[mnemonic]

    def run(self, native: Native) -> Accesses:
        yield from ()
        if self._divides_by_0:
            return native.raise_exception(_DE)
        flags = native.rflags
        ax, status = self._function(
            native.gpr(RAX) & 0xFFFF, flags if self._base < 0 else self._base
        )
        native.set_gpr(RAX, ax, 2)
        native.set_flags(flags & ~_STATUS | status)
        native.skip(self._length)
        return True


class SetByCarry:
    """SALC: AL becomes FFh or 0, as CF is; it is in no manual of Intel's but in all processors."""

    __slots__ = ("_length",)

    def __init__(self, native: Native, instruction: Instruction) -> None:
        del native
        self._length = instruction.len

    def run(self, native: Native) -> Accesses:
        yield from ()
        native.set_gpr(RAX, 0xFF if native.rflags & _CF else 0, 1)
        native.skip(self._length)
        return True
