"""The learned operands, flags and unit of single instructions."""

import pytest

from ringlet.translate.learn import Shape, learn
from ringlet.translate.shape import MemUse, RegRole, UnitUse

CF, PF, AF, ZF, SF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x400, 0x800
STATUS = CF | PF | AF | ZF | SF | OF
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R11 = (1 << n for n in (0, 1, 2, 3, 4, 5, 6, 7, 11))
R, W, RW = 8, 16, 24
MAYBE = RW | int(RegRole.ROLE_MAYBE)
B8, B16, B32, B64 = (
    int(RegRole.ROLE_8),
    int(RegRole.ROLE_16),
    int(RegRole.ROLE_32),
    int(RegRole.ROLE_64),
)


def at(code: str, mode: int = 64) -> Shape:
    return learn(bytes.fromhex(code) + bytes(4), mode)


@pytest.mark.parametrize(
    ("code", "reg", "rm", "vvvv", "opreg"),
    [
        ("01c8", B32 | R, B32 | RW, 0, 0),
        ("0108", B32 | R, 0, 0, 0),
        ("4801c8", B64 | R, B64 | RW, 0, 0),
        ("6601c8", B16 | R, B16 | RW, 0, 0),
        ("00c8", B8 | R, B8 | RW, 0, 0),
        ("31c0", B32 | R, B32 | RW, 0, 0),  # which of them are one register is not in the key
        ("19c0", B32 | R, B32 | RW, 0, 0),
        ("30c0", B8 | R, B8 | RW, 0, 0),
        ("89c8", B32 | R, B32 | W, 0, 0),
        ("39c8", B32 | R, B32 | R, 0, 0),
        ("0f44c1", B32 | RW, B32 | R, 0, 0),  # cmove: an old value may stay
        ("480f44c1", B64 | MAYBE, B64 | R, 0, 0),
        ("660f44c1", B16 | MAYBE, B16 | R, 0, 0),
        ("0fbcc1", B32 | MAYBE, B32 | R, 0, 0),  # bsf of 0 keeps the destination
        ("f30fbcc1", B32 | W, B32 | R, 0, 0),  # tzcnt
        ("0fb6c1", B32 | W, B8 | R, 0, 0),
        ("480fbfc1", B64 | W, B16 | R, 0, 0),
        ("4863c1", B64 | W, B32 | R, 0, 0),
        ("87c1", B32 | RW, B32 | RW, 0, 0),
        ("0fc1c1", B32 | RW, B32 | RW, 0, 0),
        ("0fb1c1", B32 | R, B32 | MAYBE, 0, 0),
        ("0f94c0", 0, B8 | W, 0, 0),
        ("0fa5c8", B32 | R, B32 | RW, 0, 0),
        ("b000", 0, 0, 0, B8 | W),
        ("b800000000", 0, 0, 0, B32 | W),
        ("48b80000000000000000", 0, 0, 0, B64 | W),
        ("50", 0, 0, 0, B64 | R),
        ("6650", 0, 0, 0, B16 | R),
        ("58", 0, 0, 0, B64 | W),
        ("0fc8", 0, 0, 0, B32 | RW),
        ("93", 0, 0, 0, B32 | RW),
        ("c4e270f2c1", B32 | W, B32 | R, B32 | R, 0),  # andn
        ("c4e2f3f6c2", B64 | W, B64 | R, B64 | W, 0),  # mulx
        ("c4e2f1f7c2", B64 | W, B64 | R, B64 | R, 0),  # shlx
        ("c4e270f3c9", 0, B32 | R, B32 | W, 0),  # blsr
        ("c4e3fbf0c105", B64 | W, B64 | R, 0, 0),  # rorx
        ("f2480f2ac0", 0, B64 | R, 0, 0),  # cvtsi2sd
        ("f2480f2cc0", B64 | W, 0, 0, 0),
        ("660f6ec0", 0, B32 | R, 0, 0),  # movd
        ("66480f7ec0", 0, B64 | W, 0, 0),  # movq
        ("c4e1f96ec0", 0, B64 | R, 0, 0),
        ("660f3a16c001", 0, B32 | W, 0, 0),  # pextrd
        ("660fc4c001", 0, B32 | R, 0, 0),  # pinsrw
        ("0f50c0", B32 | W, 0, 0, 0),
        ("660fd7c0", B32 | W, 0, 0, 0),
        ("0fc7f0", 0, B32 | W, 0, 0),  # rdrand
        ("f2480f38f1c1", B64 | RW, B64 | R, 0, 0),  # crc32
        ("f20f38f0c1", B32 | RW, B8 | R, 0, 0),
        ("0f38f008", B32 | W, 0, 0, 0),  # movbe
        ("0fc308", B32 | R, 0, 0, 0),  # movnti
        ("0f1fc0", 0, 0, 0, 0),
        ("90", 0, 0, 0, 0),
        ("4190", 0, 0, 0, B32 | RW),  # xchg r8d, eax
        ("f34190", 0, 0, 0, B32 | RW),  # the same: F3 does not make it PAUSE
        ("ffe0", 0, B64 | R, 0, 0),
        ("0f20c0", 0, B64 | W, 0, 0),
    ],
)
def test_register_roles(code: str, reg: int, rm: int, vvvv: int, opreg: int) -> None:
    shape = at(code)

    assert (shape.reg, shape.rm, shape.vvvv, shape.opreg) == (reg, rm, vvvv, opreg)


@pytest.mark.parametrize(
    ("code", "use", "size"),
    [
        ("0108", MemUse.MEM_READ | MemUse.MEM_WRITE, 4),
        ("3908", MemUse.MEM_READ, 4),
        ("488908", MemUse.MEM_WRITE, 8),
        ("8a08", MemUse.MEM_READ, 1),
        ("0f4408", MemUse.MEM_READ, 4),  # cmove reads memory whether or not it moves
        ("0fb108", MemUse.MEM_READ | MemUse.MEM_WRITE, 4),
        ("480fc708", MemUse.MEM_READ | MemUse.MEM_WRITE, 16),  # cmpxchg16b
        ("0f1f00", MemUse.MEM_HINT, 4),
        ("0f1800", MemUse.MEM_HINT, 1),
        ("0f0d08", MemUse.MEM_HINT, 1),
        ("0fae38", MemUse.MEM_READ, 1),  # clflush
        ("660fae38", MemUse.MEM_READ, 1),
        ("660fae30", MemUse.MEM_READ, 1),  # clwb
        ("488d00", MemUse.MEM_HINT, 0),  # lea
        ("c4e2692c00", MemUse.MEM_READ | MemUse.MEM_MAYBE | MemUse.MEM_LANES, 16),
        ("c4e26d2e00", MemUse.MEM_WRITE | MemUse.MEM_MAYBE | MemUse.MEM_LANES, 32),
        ("c4e269920488", MemUse.MEM_READ | MemUse.MEM_MAYBE | MemUse.MEM_LANES, 4),
        ("0f2900", MemUse.MEM_WRITE, 16),
        ("c5fd2900", MemUse.MEM_WRITE, 32),
        ("d900", MemUse.MEM_READ | MemUse.MEM_MAYBE, 4),
        ("dd38", MemUse.MEM_WRITE | MemUse.MEM_MAYBE, 2),  # fnstsw
        ("ff30", MemUse.MEM_READ, 8),
        ("8f00", MemUse.MEM_WRITE, 8),
        ("ff10", MemUse.MEM_READ, 8),
        ("a4", MemUse.MEM_NONE, 1),
        ("f348a5", MemUse.MEM_NONE, 8),
        ("01c0", MemUse.MEM_NONE, 4),
        ("0f0138", MemUse.MEM_HINT, 0),  # invlpg
        ("0fae00", MemUse.MEM_WRITE, 0),  # fxsave: 512 does not fit
    ],
)
def test_memory(code: str, use: int, size: int) -> None:
    shape = at(code)

    assert (shape.mem, shape.mem_size) == (use, size)


@pytest.mark.parametrize(
    ("code", "read", "write"),
    [
        ("01c8", 0, 0),
        ("0108", 0, 0),
        ("d3e0", RCX, 0),
        ("0fb108", RAX, RAX),
        ("0fc708", RAX | RDX | RBX | RCX, RAX | RDX),
        ("f7e1", RAX, RAX | RDX),
        ("f7f9", RAX | RDX, RAX | RDX),
        ("f6f1", RAX, RAX),
        ("98", RAX, RAX),
        ("99", RAX, RDX),
        ("c4e2f3f6c2", RDX, 0),
        ("a4", RSI | RDI, RSI | RDI),
        ("f3a4", RSI | RDI | RCX, RSI | RDI | RCX),
        ("aa", RAX | RDI, RDI),
        ("ac", RSI, RSI | RAX),
        ("f2ae", RAX | RCX | RDI, RCX | RDI),
        ("50", RSP, RSP),
        ("58", RSP, RSP),
        ("ff30", RSP, RSP),
        ("c9", RBP, RSP | RBP),
        ("c3", RSP, RSP),
        ("e800000000", RSP, RSP),
        ("d7", RAX | RBX, RAX),
        ("0ff7c1", RDI, 0),
        ("e2fe", RCX, RCX),
        ("e3fe", RCX, 0),
        ("dfe0", 0, RAX),  # fnstsw ax
        ("9e", RAX, 0),
        ("9f", 0, RAX),
        ("93", RAX, RAX),
        ("04ff", RAX, RAX),
        ("a801", RAX, 0),
        ("660f3a60c101", RAX | RDX, 0),  # pcmpestrm
        ("660f3a61c101", RAX | RDX, RCX),  # pcmpestri
        ("0f05", 0, RCX | R11),
    ],
)
def test_implicit_registers(code: str, read: int, write: int) -> None:
    shape = at(code)

    assert (shape.implicit_read, shape.implicit_write) == (read, write)


@pytest.mark.parametrize(
    ("code", "read", "kill", "write"),
    [
        ("01c8", 0, STATUS, STATUS),
        ("11c8", CF, STATUS, STATUS),
        ("ffc0", 0, STATUS & ~CF, STATUS & ~CF),  # inc
        ("f7d0", 0, 0, 0),  # not
        ("21c8", 0, STATUS, STATUS),
        ("d1e0", 0, STATUS & ~AF, STATUS),
        ("c1e003", 0, 0, STATUS),
        ("c1e000", 0, 0, STATUS),
        ("d3e0", 0, 0, STATUS),
        ("d3c0", 0, 0, CF | OF),
        ("d1c0", 0, CF | OF, CF | OF),
        ("d3d0", CF, 0, CF | OF),
        ("0fa4c803", 0, 0, STATUS),
        ("0fa5c8", 0, 0, STATUS),
        ("0fbcc1", 0, ZF, STATUS),
        ("0fa3c8", 0, CF, STATUS & ~ZF),  # the rest is undefined
        ("f7e1", 0, CF | OF, STATUS),
        ("0fb1c1", 0, STATUS, STATUS),
        ("0fc708", 0, ZF, ZF),
        ("7400", ZF, 0, 0),
        ("7f00", ZF | SF | OF, 0, 0),
        ("0f42c1", CF, 0, 0),
        ("0f97c0", CF | ZF, 0, 0),
        ("9e", 0, STATUS & ~OF, STATUS & ~OF),
        ("9f", STATUS & ~OF, 0, 0),
        ("f5", CF, CF, CF),
        ("f8", 0, CF, CF),
        ("fd", 0, DF, DF),
        ("a4", DF, 0, 0),
        ("a6", DF, STATUS, STATUS),
        ("f3a6", DF, 0, STATUS),  # not if rCX is 0
        ("f2ae", DF, 0, STATUS),
        ("e1fe", ZF, 0, 0),
        ("660f2ec1", 0, STATUS, STATUS),  # ucomisd
        ("dbf1", 0, STATUS, STATUS),  # fcomi
        ("dac1", CF, 0, 0),  # fcmovb
        ("66480f38f6c1", CF, CF, CF),  # adcx
        ("f3480f38f6c1", OF, OF, OF),  # adox
        ("c4e270f2c1", 0, STATUS & ~(PF | AF), STATUS),
        ("c4e2f1f7c2", 0, 0, 0),
        ("c4e3fbf0c105", 0, 0, 0),
        ("0fc7f0", 0, STATUS, STATUS),
        ("488d00", 0, 0, 0),
        ("50", 0, 0, 0),
    ],
)
def test_flags(code: str, read: int, kill: int, write: int) -> None:
    shape = at(code)

    assert (shape.flags_read, shape.flags_kill, shape.flags_write) == (read, kill, write)


@pytest.mark.parametrize(
    ("code", "unit", "traps"),
    [
        ("01c8", UnitUse.UNIT_NONE, 0),
        ("f7f9", UnitUse.UNIT_NONE, 1),
        ("d8c1", UnitUse.UNIT_X87, 1),
        ("d900", UnitUse.UNIT_X87, 1),
        ("dfe0", UnitUse.UNIT_X87, 1),
        ("dbe3", UnitUse.UNIT_X87, 1),  # fninit
        ("0f77", UnitUse.UNIT_X87, 1),  # emms
        ("0ffcc1", UnitUse.UNIT_X87, 1),  # paddb mm
        ("9b", UnitUse.UNIT_WAIT, 1),
        ("0f58c1", UnitUse.UNIT_SSE, 1),
        ("0f2ac1", UnitUse.UNIT_SSE, 1),  # cvtpi2ps
        ("f30fd6c1", UnitUse.UNIT_SSE, 1),  # movq2dq
        ("0fae10", UnitUse.UNIT_SSE, 1),  # ldmxcsr
        ("660f38dcc1", UnitUse.UNIT_SSE, 1),
        ("c5f058c2", UnitUse.UNIT_AVX, 1),
        ("c5f877", UnitUse.UNIT_AVX, 1),
        ("c5f8ae10", UnitUse.UNIT_AVX, 1),
        ("c4e270f2c1", UnitUse.UNIT_NONE, 1),  # BMI, which no CR0.TS stops
        ("0fc308", UnitUse.UNIT_NONE, 0),  # movnti
        ("0fae38", UnitUse.UNIT_NONE, 0),
        ("0faee8", UnitUse.UNIT_NONE, 0),
        ("f20f38f1c1", UnitUse.UNIT_NONE, 0),
        ("0f1800", UnitUse.UNIT_NONE, 0),
    ],
)
def test_unit(code: str, unit: int, traps: int) -> None:
    shape = at(code)

    assert (shape.unit, shape.traps) == (unit, traps)


def test_push_of_the_stack_pointer_names_it_and_uses_it() -> None:
    shape = at("54", 32)

    assert shape.opreg == B32 | R
    assert shape.implicit_read & shape.implicit_write == RSP
