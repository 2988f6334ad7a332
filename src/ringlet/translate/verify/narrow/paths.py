"""`Paths`: the check of one translation of 16- or 32-bit code, along its branches: rule 6."""

from collections.abc import Iterator
from typing import Final

from iced_x86 import Code, Decoder, DecoderOptions, Instruction, OpKind

from ringlet.translate.translator import (
    BLOCK,
    JUMP_TABLE,
    KEYS,
    Relocation,
    Stub,
    Translation,
)
from ringlet.translate.verify.narrow.effects import Effects
from ringlet.translate.verify.narrow.values import (
    NONE,
    R8,
    R9,
    Facts,
    Kind,
    UnsoundError,
    displacement,
)
from ringlet.translate.verify.paths import Violation

_BASED: Final = KEYS["cs64k"] | KEYS["cs_odd"]
"""Keys of code whose targets EIP alone does not tell apart."""


class Paths:
    """Follows a translation from its entries; branches inside it lead forward alone."""

    def __init__(self, translation: Translation) -> None:
        self._t = translation
        self._effects = Effects(translation)
        self._links = {at for at, _ in translation.links}
        self._resumes = set(translation.resumes)
        self._starts = frozenset(_starts(translation))
        self._pending: dict[int, Facts] = {}
        self._used_links: set[int] = set()
        self._at = 0
        self._text = ""

    def check(self) -> list[Violation]:
        """Return the first violation in a list, which is empty if the translation is sound."""
        try:
            self._thunk()
            self._follow()
            self._check_remaining()
        except UnsoundError as error:
            guest = max((g for host, g in self._t.map if host <= self._at), default=0)
            return [Violation(self._at, guest, self._text, str(error))]
        return []

    # --- the pass

    def _thunk(self) -> None:
        """Raise unless the code before the body is the entry that compares r8 with the address."""
        if not self._t.body:
            return
        linear = self._t.linear & (1 << 64) - 1
        expected = [bytes.fromhex("4989c9")]  # mov r9, rcx
        expected_relocation: dict[int, tuple[int, int]] = {}
        if self._t.key & _BASED:
            # The base and EIP: in a translation alone, the base is 0.
            expected.append(_load_rcx(-(linear & 0xFFFFFFFF)))
        else:
            # LEA ecx, [r8 - EIP]: both have 32 bits.
            expected.append(bytes.fromhex("418d88") + (-linear & 0xFFFFFFFF).to_bytes(4, "little"))
            expected_relocation[6] = (Relocation.NRIP32, 0)
        # JRCXZ leads over MOV RCX, R9 and a jump to the stub, to MOV RCX, R9.
        expected.append(bytes.fromhex("e3084c89c9e9000000004c89c9"))
        expected_relocation[self._t.body - 7] = (Relocation.STUB, Stub.INDIRECT)
        relocated = {
            at: (kind, value)
            for at, kind, value in self._t.relocations
            if at < self._t.body
        }
        self._effects.uses.update(relocated)
        if (
            self._t.code[: self._t.body] != b"".join(expected)
            or relocated != expected_relocation
        ):
            raise UnsoundError("the entry lets any indirect target in")

    def _follow(self) -> None:
        code = self._t.code
        # Check an instruction with an invalid reserved field as if it could run.
        decoder = Decoder(64, code, DecoderOptions.NO_INVALID_CHECK)
        decoder.position = self._t.body
        decoder.ip = self._t.body
        s: Facts | None = Facts.at_entry()
        before = self._t.body
        while decoder.can_decode:
            self._at, self._text = decoder.position, ""
            if before < self._t.cold < self._at:
                raise UnsoundError("an instruction is both in line and out of line")
            if self._at == self._t.cold and s is not None:
                raise UnsoundError("execution runs on into code out of line")
            s = self._arrive(s)
            before = self._at
            i = decoder.decode()
            self._text = str(i)
            data = code[self._at : decoder.position]
            fields = decoder.get_constant_offsets(i)
            whole = fields.displacement_size == 4
            s = self._step(s, i, data, self._at + fields.displacement_offset if whole else NONE)
        self._at, self._text = len(code), ""
        if s is not None or self._pending or self._resumes:
            raise UnsoundError("execution runs on behind the translation, or into an instruction")

    def _arrive(self, s: Facts | None) -> Facts:
        """Return the facts where control comes from above, from branches and from operations."""
        other = self._pending.pop(self._at, None)
        if other is not None:
            s = other if s is None else s.merge(other)
        if self._at in self._resumes:
            self._resumes.discard(self._at)
            if s is not None:
                s.at_rest()
            s = Facts.at_entry()
        if s is None:
            raise UnsoundError("no path leads to it")
        if self._at in self._starts:
            s.begin()
        return s

    def _step(self, s: Facts, i: Instruction, data: bytes, at_displacement: int) -> Facts | None:
        if i.is_jmp_short_or_near:
            self._jump(s, i)
            return None
        if i.is_jcc_short_or_near or i.code == Code.JRCXZ_REL8_64:
            self._branch(s, i)
            return s
        if i.code == Code.JMP_RM64:
            self._through_table(s, i, data)
            return None
        self._effects.step(s, i, data, at_displacement)
        return s

    def _check_remaining(self) -> None:
        """Raise if a relocation or a link is not where an instruction expects it."""
        relocated = [at for at, _, _ in self._t.relocations]
        if set(relocated) - self._effects.uses:
            raise UnsoundError("a relocation belongs to no instruction")
        if len(relocated) != len(set(relocated)):
            raise UnsoundError("a field has two relocations")
        if self._links - self._used_links:
            raise UnsoundError("a link belongs to no branch")

    # --- branches

    def _jump(self, s: Facts, i: Instruction) -> None:
        field = _distance(i)
        kind, stub = self._effects.relocation(field)
        if field in self._links:
            self._link(s, i, field)
        elif kind != Relocation.STUB:
            self._within(s, i)
        else:
            s.at_rest()
            self._unlinked(i)
            self._stub(s, stub)

    def _branch(self, s: Facts, i: Instruction) -> None:
        field = _distance(i)
        if field in self._links:
            self._link(s, i, field)
        else:
            self._within(s.copy(), i)

    def _link(self, s: Facts, i: Instruction, field: int) -> None:
        s.at_rest()
        self._unlinked(i)
        self._used_links.add(field)
        if i.next_ip - field != 4 or self._at >= self._t.cold:
            raise UnsoundError("a link is not the distance of a branch")

    def _unlinked(self, i: Instruction) -> None:
        """Raise unless the branch leads nowhere until it is installed."""
        if i.near_branch_target != i.next_ip:
            raise UnsoundError("a link or stub leads out of its translation")

    def _within(self, s: Facts, i: Instruction) -> None:
        target = i.near_branch_target
        if not i.next_ip <= target < len(self._t.code):
            raise UnsoundError("it branches to no later instruction of its fragment")
        other = self._pending.get(target)
        self._pending[target] = s if other is None else other.merge(s)

    def _stub(self, s: Facts, stub: int) -> None:
        """Raise unless the fragment may leave through the stub."""
        out_of_line = self._at >= self._t.cold
        if stub == Stub.STALE:
            sound = out_of_line and s.fragment
        elif stub == Stub.OP:
            sound = not out_of_line and 0 <= s.operation < len(self._t.operations)
        else:
            sound = not out_of_line and stub == Stub.INDIRECT and self._is_target(s)
        if not sound:
            raise UnsoundError("it leaves through a stub that is not for it")

    def _is_target(self, s: Facts) -> bool:
        """Whether r8 is what the entry of the target compares."""
        value = s.value(R8)
        return value.kind is Kind.PLACE if self._t.key & _BASED else value.is_guest

    def _through_table(self, s: Facts, i: Instruction, data: bytes) -> None:
        index = s.value(R9)
        if (
            len(data) != 8
            or i.op0_kind != OpKind.MEMORY
            or i.memory_base
            or (i.memory_index, i.memory_index_scale) != (R9, 8)
            or displacement(i) != BLOCK + JUMP_TABLE
            or self._effects.relocation(i.next_ip - 4) != (Relocation.TABLE, 0)
        ):
            raise UnsoundError("it jumps through no table of targets")
        if index.kind is not Kind.LOW16 or index.register != R8 or not self._is_target(s):
            raise UnsoundError("it jumps by another index than the low 16 bits of r8")
        if self._t.key & KEYS["step"] or self._at >= self._t.cold:
            raise UnsoundError("the table may lead to code that does not step")
        s.at_rest()


def _load_rcx(value: int) -> bytes:
    """Return the code of MOV RCX, imm64 and LEA RCX, [RCX + R8]."""
    constant = (value & (1 << 64) - 1).to_bytes(8, "little")
    return bytes.fromhex("48b9") + constant + bytes.fromhex("4a8d0c01")


def _distance(i: Instruction) -> int:
    """Return the offset of a branch's distance.

    Raises if the branch has a prefix: processors differ in what 66h does to it (SDM vol. 2A JMP).
    """
    if i.is_jmp_near or i.is_jcc_near:
        expected, size = (5 if i.is_jmp_near else 6), 4
    else:
        expected, size = 2, 1
    if i.len != expected:
        raise UnsoundError("a branch has a prefix")
    return i.next_ip - size


def _starts(t: Translation) -> Iterator[int]:
    """Yield the host offsets at which the code of a guest instruction begins."""
    last = NONE
    for host, guest in t.map:
        if t.body <= host < t.cold and guest != last:
            yield host
            last = guest
