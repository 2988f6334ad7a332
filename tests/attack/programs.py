"""Hostile guest programs: registers that walk away from memory that they once named.

Each program is a loop.  Its body moves RSP, or a register that addresses memory, by instructions of
every kind, beside instructions that name memory and may not access it.  Behind the loop, and in its
last pass, there are real accesses.  Some walks are aimed: they end exactly where a canary stands in
the host if nothing has noticed that the register left its slot.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from tests.differential.layout import DATA, STACK

M64 = (1 << 64) - 1
STEP = 1 << 20
"""The longest move by a constant that the translator follows."""
_TABLE = struct.pack("<2H12x2I", 0x37F, 0x37E, 0xFF, 0)
"""What R13 points at: a control word and a mask for the last pass, and those for all others."""
_WHETHER_LAST = ("498d4424ff", "48f7d8", "19c0", "83e001")
"""lea rax, [r12 - 1]; neg rax; sbb eax, eax; and eax, 1: EAX is 0 in the last pass alone."""

RCX, RSP, RSI, R12, R13 = 1, 4, 6, 12, 13
_AC, _TF, _DF = 1 << 18, 1 << 8, 1 << 10

# Instructions that change RSP or use it; RBX and RBP hold anything.
_RSP = """
    4801dc 4829dc 4889dc 4887dc 480f44e3 480f45e3 480fbce3 480fbde3 4869e3fffeffff 4889ec c9
    c8100000 c8200003 c8ffff1f 50 58 5c 54 ff3424 8f0424 8f442408 4883e4f0 48c1e401 48c1fc01
    480fcc 48f7dc 480fc1dc 480fb1dc f3480fb8e3 c4e3fbf0e305 89dc 83c408 6683c408 0fb7e3
    488b2424 488b23 480323 488d245b 488d241c 488da42400000070 488da42400000090 4883c408
    4883ec08 48ffc4 48ffcc 9c 9d e800000000 6a00 6650 6658 4881c400001000 4881ec00001000
    4881c4fcff0f00 488d0504000000:50:c21000 488d0504000000:50:c2ffff 4833e3 480be3 4823e3
    4813e3 481be3 480fafe3 48d3e4 480fa4dc04
""".split()
# Instructions at [RSP] and beside it: performed, not performed, or only perhaps.
_AT_RSP = """
    488b0424 890424 db1424 dd1424 db3c24 d92c24 dbe2 c4e2792c0424 c4e2792e0424 c4e2718e0424
    0f180424 0f1f0424 f3a4 f348ab 660ff7c1 480fab0c24 0fbb0c24 480fc70c24 0fae3c24 488b04cc
    89c9:488b04cc d7 0fae0424 dd3424 c5fc110424 a4 48ab ac 48af 48a7 67488b0424 6448890424
    488b442480 48ff0424 f0480fc10424 480f440424 0f900424 d30424 c5f910442408 66440fd60424
    c462bbf61c24 c4e2bbf62424 c462dbf60424 488b842400004000
    c5c976f6:c5f976c0:c5f972d001:c4e249920cc4 c5c976f6:c5f976c0:c5f972f01f:c4e249920cc4
    c5cd76f6:c5fd76c0:c5fd72d001:c4e24d900cc4 c5c976f6:c5f976c0:c5f972d001:c4e249908cc4ffffff7f
    c5c976f6:c4e2c9930cc4 c4e24d910cc4 4863c9:488b04cc 4863c9:4889048c 4898:488b04c4
    480fbec9:488944cc08 4863cb:488b8ccc00000010
""".split()
# The same at [RSI]; RDI and RBX walk as well.
_AT_RSI = """
    488b06 8906 db16 dd16 db3e d92e dbe2 c4e2792c06 c4e2792e06 c4e2718e06 0f1806 0f1f06
    480fab0e 0fbb0e 480fc70e 0fae3e 488b04ce 89c9:488b04ce 488b045e d7 c5fc1106 a4 48ab ac
    48a5 48a7 f3a4 f3a6 f2ae 67488b06 64488906 488b4680 48ff06 f0480fc106 0f9006 d306 660ff7c1
    488b843600000070 4801de 4829de 4889de 4887de 480f44f3 480fbcf3 4869f3fffeffff 488d345b
    4883c608 4883ee08 48ffc6 480fce 4801f3 4801f7 4889f7 4889f3 48f7de 89de 480fc1de 488d7601
    480fb1de c4e2c9920c46 c462bbf61e c4e2bbf636 c462cbf606 488b8600004000 8b8600005000
    c5c976f6:c5f976c0:c5f972d001:c4e249920cc6 c5c976f6:c5f976c0:c5f972f01f:c4e249920cc6
    c5cd76f6:c5fd76c0:c5fd72d001:c4e24d900cc6 c5c976f6:c5f976c0:c5f972d001:c4e249908cc6ffffff7f
    c5c976f6:c4e2c9930cc6 c4e24d910cc6 4863c9:488b04ce 4863c9:4889048e 4898:488b04c6
    480fbec9:488944ce08 4863cb:488b8cce000000f0 4863f6:488b04f3 4863cb:488b0cce:4863cb:48890cce
    488b36:31c0 488b1e:4889de:31c0 48891e:488b36:31c0 48893e:488b36:85f6 488b06:31db:480f44f0
    488936:488b36:31c0 488b36:488b36:31c0
""".split()


@dataclass(frozen=True, slots=True)
class Attack:
    """One program; `table` is what R13 points at, `length` the instructions of the loop's body."""

    code: bytes
    registers: tuple[int, ...]
    table: bytes
    cpl: int
    rflags: int
    alignment: bool  # CR0.AM
    length: int

    def steps(self, left: int) -> int:
        """How many instructions it took until R12 was `left`, about."""
        passes = self.registers[R12] - left & M64
        return self.length * max(1, passes if passes <= self.registers[R12] else 1)

    def text(self) -> str:
        """To be pasted into a test."""
        registers = ", ".join(f"{value:#x}" for value in self.registers)
        return (
            f"CPL {self.cpl} RFLAGS {self.rflags:#x} AM {self.alignment}: "
            f"{self.code.hex()} with ({registers})"
        )


def _pieces(rng: random.Random, table: list[str], count: int) -> list[bytes]:
    return [bytes.fromhex(rng.choice(table).replace(":", "")) for _ in range(count)]


def _move(rng: random.Random, register: int, by: int) -> bytes:
    """RSP or RSI += `by`: LEA, ADD or SUB."""
    kind = rng.randrange(3)
    if kind == 0:
        operand = "48 8da424" if register == RSP else "48 8db6"
    else:
        operand = ("48 81c4" if kind == 1 else "48 81ec") if register == RSP \
            else ("48 81c6" if kind == 1 else "48 81ee")
    return bytes.fromhex(operand) + struct.pack("<i", -by if kind == 2 else by)


def _quiet(rng: random.Random, register: int) -> list[bytes]:
    """What names memory at the register in each pass of an aimed walk, and at most in the last one
    accesses it."""
    at = "1424" if register == RSP else "16"
    choices = (
        # fnclex; fldcw [r13 + rax*2]; fist dword [register]: there is nothing to store
        (*_WHETHER_LAST, "dbe2", "41d96c4500", "db" + at),
        # vpmovsxbd xmm0, [r13 + rax*4 + 16]; vpmaskmovd [register], xmm0, xmm2
        (*_WHETHER_LAST, "c4c27921448510", "c4e2798e" + at),
        ("0f18" + at.replace("1", "0", 1),),  # prefetchnta [register]
        (),
    )
    return [bytes.fromhex(piece) for piece in rng.choice(choices)]


def aimed(rng: random.Random, distances: list[int]) -> Attack:
    """A walk by constants over one of the distances."""
    register = rng.choice((RSP, RSP, RSI))
    touch = _quiet(rng, register)
    distance = rng.choice(distances)
    passes = max(abs(distance) // (16 * STEP), 1)
    per_pass = abs(distance) // passes
    moves = max(-(-per_pass // STEP), 1)
    by = per_pass // moves * (1 if distance > 0 else -1)
    misaligned = rng.choice((0, 0, 1, rng.randrange(64)))
    area = STACK if register == RSP else DATA
    body = [_move(rng, register, by) for _ in range(moves)] + touch
    rest = distance - by * moves * passes + misaligned
    if not -(1 << 31) <= rest < 1 << 31:
        rest = misaligned
    # mov rdi, [register + rest]; mov [register + rest], rbx; push rbx; pop rbx; mov rax, [rsi]
    load, store = ("488bbc24", "48899c24") if register == RSP else ("488bbe", "48899e")
    ends = struct.pack("<i", rest)
    last = [bytes.fromhex(load) + ends, bytes.fromhex(store) + ends,
            bytes.fromhex("535b"), bytes.fromhex("488b06")]
    rng.shuffle(last)
    start = area.linear + 0x1000 - misaligned
    return _attack(rng, body, passes, b"".join(last), {register: start})


def wild(rng: random.Random, distances: list[int]) -> Attack:
    """A loop of anything that moves RSP or the string registers."""
    start = _anything(rng, distances)
    register = rng.choice((RSP, RSP, RSI))
    table, touches = (_RSP, _AT_RSP) if register == RSP else (_AT_RSI, _AT_RSI)
    body = _pieces(rng, table, rng.randrange(1, 8)) + _pieces(rng, touches, rng.randrange(4))
    for _ in range(rng.randrange(16)):
        body.append(_move(rng, register, rng.choice((STEP, -STEP, rng.randrange(-STEP, STEP)))))
    rng.shuffle(body)
    last = b"".join(_pieces(rng, _AT_RSP + _AT_RSI, 6))
    values = {n: _anything(rng, distances) for n in range(16) if rng.random() < 0.5}
    if register == RSP and rng.random() < 0.5:
        start = STACK.linear + rng.randrange(STACK.size)
    values[register] = start
    return _attack(rng, body, rng.choice((3, 200, 5000)), last, values)


def _anything(rng: random.Random, distances: list[int]) -> int:
    kind = rng.randrange(8)
    area = rng.choice((DATA, STACK))
    near = area.linear + rng.randrange(area.size)
    if kind < 2:
        return near
    if kind == 2:
        return near + rng.choice(distances) & M64
    if kind == 3:  # an unused slot, canonical or not
        return rng.getrandbits(64) & ~0xFFF | rng.choice((0, 8, 0xFF8, 1))
    if kind == 4:
        return rng.getrandbits(47)
    if kind == 5:  # the edges of slots
        return (rng.getrandbits(16) << 36) + rng.randrange(-64, 64) & M64
    if kind == 6:
        return near | rng.getrandbits(17) << 47
    return rng.choice((0, 1, -1 & M64, STEP, -STEP & M64, 1 << 47, 1 << 50, rng.getrandbits(20)))


def _attack(rng: random.Random, body: list[bytes], passes: int, last: bytes,
            values: dict[int, int]) -> Attack:
    code = b"".join(body) + bytes.fromhex("49ffcc")  # dec r12
    start = bytes.fromhex("dbe2")  # fnclex
    code = start + code + b"\x0f\x85" + struct.pack("<i", -len(code) - 6)  # jnz
    registers = [values.get(n, rng.choice((0, rng.getrandbits(8), DATA.linear))) for n in range(16)]
    registers[R12] = passes
    registers[R13] = DATA.linear
    if RCX not in values:
        registers[RCX] = rng.choice((0, 0, 1, 64))
    cpl = rng.choice((0, 3, 3))
    rflags = 0x202 | (rng.random() < 0.4) * _AC | (rng.random() < 0.1) * _DF
    rflags |= (rng.random() < 0.01) * _TF
    return Attack(code + last, tuple(registers), _TABLE, cpl, rflags,
                  rng.random() < 0.6, len(body) + 2)


def attack(seed: int, distances: list[int]) -> Attack:
    """The program of a seed; `distances` lead from the guest's pages to canaries."""
    rng = random.Random(seed)
    return (aimed if rng.random() < 0.5 else wild)(rng, distances)
