"""A decoder of instruction lengths in Python, with opcodes looked up as learned shapes.

It does the work of the compiled decoder, but slowly; the tests compare its lengths with iced-x86's.
"""

from collections.abc import Iterator

from ringlet.translate.key import GROUP_MODRM, GROUP_REGISTER, Parsed, ShapeKey, parse
from ringlet.translate.learn import Shape, learn_key


class Shapes:
    """Shapes by key, each learned once."""

    def __init__(self) -> None:
        self._by_key: dict[ShapeKey, Shape] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[ShapeKey]:
        return iter(self._by_key)

    def __getitem__(self, key: ShapeKey) -> Shape:
        shape = self._by_key.get(key)
        if shape is None:
            shape = self._by_key[key] = learn_key(key)
        return shape


def operand_length(code: bytes, parsed: Parsed) -> int:
    """Return the bytes of ModRM, SIB and displacement of a 64-bit or 32-bit instruction."""
    if not parsed.group & GROUP_MODRM:
        return 0
    modrm = code[parsed.after_opcode]
    if modrm >= 0xC0 or parsed.group & GROUP_REGISTER:
        return 1
    mod, rm = modrm >> 6, modrm & 7
    if parsed.key.mode != 64 and parsed.address_override != (parsed.key.mode == 16):
        return 1 + (2 if mod == 2 or (mod == 0 and rm == 6) else mod)
    length = 1
    if rm == 4:
        length += 1
        if mod == 0 and code[parsed.after_opcode + 1] & 7 == 5:
            length += 4
    if (mod == 0 and rm == 5) or mod == 2:
        length += 4
    return length + (1 if mod == 1 else 0)


def immediate_length(parsed: Parsed, shape: Shape) -> int:
    """Return the bytes after the operands, address-sized offsets included."""
    key = parsed.key
    if not key.vex and key.map == 0 and 0xA0 <= key.opcode <= 0xA3 and parsed.address_override:
        return {64: 4, 32: 2, 16: 4}[key.mode]
    return shape.imm


def length_of(code: bytes, mode: int, shapes: Shapes) -> int:
    """Return the length of the instruction at the start of `code`, which must be a valid one."""
    parsed = parse(code, mode)
    assert parsed is not None
    return (
        parsed.after_opcode
        + operand_length(code, parsed)
        + immediate_length(parsed, shapes[parsed.key])
    )
