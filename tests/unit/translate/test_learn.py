"""The learned shapes of single instructions, field by field."""

import ast
from pathlib import Path

import pytest
from iced_x86 import Code

import ringlet
from ringlet.core import ops
from ringlet.core.ops import Op
from ringlet.translate import shape as shape_module
from ringlet.translate.features import OFFERED
from ringlet.translate.learn import Shape, learn
from ringlet.translate.shape import ShapeKind, StackUse

SOURCE = Path(ringlet.__file__).parent


def at(code: str, mode: int = 64) -> Shape:
    return learn(bytes.fromhex(code) + bytes(4), mode)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("0fafc1", ShapeKind.SHAPE_PLAIN),  # imul eax, ecx
        ("eb00", ShapeKind.SHAPE_JMP),
        ("e900000000", ShapeKind.SHAPE_JMP),
        ("7400", ShapeKind.SHAPE_JCC),
        ("0f8400000000", ShapeKind.SHAPE_JCC),
        ("e800000000", ShapeKind.SHAPE_CALL),
        ("ffe0", ShapeKind.SHAPE_JMP_IND),
        ("3effe0", ShapeKind.SHAPE_JMP_IND),  # notrack
        ("ff10", ShapeKind.SHAPE_CALL_IND),
        ("c3", ShapeKind.SHAPE_RET),
        ("f3c3", ShapeKind.SHAPE_RET),
        ("c20800", ShapeKind.SHAPE_RET),
        ("e2fe", ShapeKind.SHAPE_LOOP),
        ("e0fe", ShapeKind.SHAPE_LOOP),
        ("e3fe", ShapeKind.SHAPE_LOOP),  # jrcxz
        ("a4", ShapeKind.SHAPE_STRING),
        ("f348ab", ShapeKind.SHAPE_STRING),
        ("f2ae", ShapeKind.SHAPE_STRING),
        ("c9", ShapeKind.SHAPE_LEAVE),
        ("488d0500000000", ShapeKind.SHAPE_ADDRESS),
        ("d7", ShapeKind.SHAPE_XLAT),
        ("0ff7c1", ShapeKind.SHAPE_MASKMOV),
        ("c5f9f7c1", ShapeKind.SHAPE_MASKMOV),
        ("c4e269920488", ShapeKind.SHAPE_GATHER),  # vgatherdps
        ("0fab08", ShapeKind.SHAPE_BITS),  # bts [rax], ecx
        ("0fabc8", ShapeKind.SHAPE_PLAIN),  # bts eax, ecx
        ("0fba2803", ShapeKind.SHAPE_PLAIN),  # bts dword [rax], 3
        ("ff30", ShapeKind.SHAPE_PUSH_MEM),
        ("fff0", ShapeKind.SHAPE_PLAIN),  # push rax, the long way
        ("8f00", ShapeKind.SHAPE_POP_MEM),
        ("8fc0", ShapeKind.SHAPE_PLAIN),
        ("f20f10c1", ShapeKind.SHAPE_PLAIN),  # movsd xmm0, xmm1 is no string instruction
        ("0f05", ShapeKind.SHAPE_OP),
        ("f30f1ec8", ShapeKind.SHAPE_OP),  # rdssp
        ("d6", ShapeKind.SHAPE_INVALID),
        ("06", ShapeKind.SHAPE_INVALID),
        ("62f17c4810c1", ShapeKind.SHAPE_INVALID),  # EVEX
        ("8fe97880c1", ShapeKind.SHAPE_INVALID),  # XOP
        ("c4e0780000", ShapeKind.SHAPE_INVALID),  # VEX, map 0
        ("66c5f877", ShapeKind.SHAPE_INVALID),  # 66 before VEX
        ("48c5f877", ShapeKind.SHAPE_INVALID),  # REX before VEX
        ("f089c0", ShapeKind.SHAPE_INVALID),  # lock mov
        ("f001c0", ShapeKind.SHAPE_INVALID),  # lock add of a register
    ],
)
def test_kind(code: str, kind: ShapeKind) -> None:
    assert at(code).kind == kind


@pytest.mark.parametrize(
    ("code", "op", "size"),
    [
        ("e440", Op.OP_IN, 1),
        ("66ed", Op.OP_IN, 2),
        ("ed", Op.OP_IN, 4),
        ("ee", Op.OP_OUT, 1),
        ("ef", Op.OP_OUT, 4),
        ("6c", Op.OP_INS, 1),
        ("6e", Op.OP_OUTS, 1),
        ("666f", Op.OP_OUTS, 2),
        ("9c", Op.OP_PUSHF, 8),
        ("669d", Op.OP_POPF, 2),
        ("cf", Op.OP_IRET, 4),
        ("48cf", Op.OP_IRET, 8),
        ("cb", Op.OP_RET_FAR, 4),
        ("48cb", Op.OP_RET_FAR, 8),
        ("48ff28", Op.OP_JMP_FAR, 8),
        ("c8000000", Op.OP_ENTER, 8),
        ("8cd8", Op.OP_MOV_FROM_SEG, 4),
        ("8ed8", Op.OP_MOV_TO_SEG, 4),
        ("0fa0", Op.OP_PUSH_SEG, 8),
        ("0fb200", Op.OP_LOAD_FAR, 4),
        ("0f20c0", Op.OP_MOV_FROM_CR, 8),
        ("440f22c0", Op.OP_MOV_TO_CR, 8),
        ("0f0110", Op.OP_LGDT, 10),
        ("0f01e0", Op.OP_SMSW, 4),
        ("0f01f8", Op.OP_SWAPGS, 0),
        ("0f0138", Op.OP_INVLPG, 0),
        ("f3480faec0", Op.OP_RDFSBASE, 8),
        ("f30faed0", Op.OP_WRFSBASE, 4),
        ("d930", Op.OP_FNSTENV, 4),
        ("66d930", Op.OP_FNSTENV, 2),
        ("48a10000000000000000", Op.OP_EMULATE, 8),
        ("a00000000000000000", Op.OP_EMULATE, 1),
        ("0f0b", Op.OP_UD, 0),
        ("0f01c8", Op.OP_UD, 0),  # monitor
        ("0f01d5", Op.OP_UD, 0),  # xend
        ("c7f800000000", Op.OP_UD, 0),  # xbegin
        ("0f0fc00d", Op.OP_UD, 0),  # 3DNow!
    ],
)
def test_operation(code: str, op: Op, size: int) -> None:
    shape = at(code)

    assert (shape.op, shape.size) == (op, size)


@pytest.mark.parametrize(
    ("code", "modrm", "imm"),
    [
        ("b800000000", 0, 4),
        ("48b80000000000000000", 0, 8),
        ("66b80000", 0, 2),
        ("48c7c000000000", 1, 4),
        ("6683c001", 1, 1),
        ("6681c00000", 1, 2),
        ("c20000", 0, 2),
        ("c8000000", 0, 3),
        ("66e800000000", 0, 4),
        ("660f8400000000", 0, 4),
        ("a10000000000000000", 0, 8),
        ("660f3a16c001", 1, 1),
        ("c4e3710ac201", 1, 1),  # vroundss
        ("c4e3694ac130", 1, 1),  # vblendvps: a register in the immediate
        ("f6c001", 1, 1),
        ("f6d0", 1, 0),
        ("f7c000000000", 1, 4),
        ("68ffffffff", 0, 4),
    ],
)
def test_lengths(code: str, modrm: int, imm: int) -> None:
    shape = at(code)

    assert (shape.modrm, shape.imm) == (modrm, imm)


@pytest.mark.parametrize(
    ("code", "mode", "stack", "size"),
    [
        ("50", 64, StackUse.STACK_PUSH, 8),
        ("6650", 64, StackUse.STACK_PUSH, 2),
        ("6a00", 64, StackUse.STACK_PUSH, 8),
        ("666a00", 64, StackUse.STACK_PUSH, 2),
        ("58", 64, StackUse.STACK_POP, 8),
        ("ff30", 64, StackUse.STACK_PUSH, 8),
        ("50", 32, StackUse.STACK_PUSH, 4),
        ("54", 32, StackUse.STACK_PUSH, 4),
        ("50", 16, StackUse.STACK_PUSH, 2),
        ("01c0", 64, StackUse.STACK_NONE, 4),
        ("c3", 64, StackUse.STACK_NONE, 8),
        ("c3", 32, StackUse.STACK_NONE, 4),
    ],
)
def test_stack(code: str, mode: int, stack: int, size: int) -> None:
    shape = at(code, mode)

    assert (shape.stack, shape.size) == (stack, size)


@pytest.mark.parametrize(
    ("code", "op"),
    [
        ("40", Op.OP_EMULATE),  # inc eax
        ("60", Op.OP_EMULATE),  # pushad
        ("27", Op.OP_EMULATE),  # daa
        ("6208", Op.OP_EMULATE),  # bound
        ("ce", Op.OP_INTO),
        ("06", Op.OP_PUSH_SEG),
        ("1f", Op.OP_POP_SEG),
        ("c508", Op.OP_LOAD_FAR),  # lds
        ("ea0000000000", Op.OP_JMP_FAR),
        ("9a0000000000", Op.OP_CALL_FAR),
        ("0f05", Op.OP_SYSCALL),
    ],
)
def test_operations_of_32_bit_code(code: str, op: Op) -> None:
    assert at(code, 32).op == op


def test_what_follows_the_instruction_does_not_count() -> None:
    code = bytes.fromhex("4801c8")

    assert learn(code) == learn(code + b"\xff" * 12)
    assert learn(bytes.fromhex("81c0")) == learn(bytes.fromhex("81c0ffffffff"))


@pytest.mark.parametrize(
    "code", ["", "48", "0f", "660f38", "01", "c5", "c5f8", "c4e27d18", "66" * 15]
)
def test_bytes_that_end_too_early(code: str) -> None:
    with pytest.raises(ValueError, match="end before"):
        learn(bytes.fromhex(code))


def test_features_decide() -> None:
    popcnt = bytes.fromhex("f30fb8c1")

    assert learn(popcnt).kind == ShapeKind.SHAPE_PLAIN
    refused = learn(popcnt, 64, OFFERED - {"popcnt"})
    assert (refused.kind, refused.op) == (ShapeKind.SHAPE_OP, Op.OP_UD)
    assert refused.code16 == Code.POPCNT_R32_RM32


def test_a_shape_packs_as_the_c_struct() -> None:
    layout = shape_module.layout()
    size = layout.pop("struct")
    shape = at("0fa5c8")

    packed = shape.pack()

    assert list(layout) == list(Shape.__dataclass_fields__)
    assert len(packed) == size
    for name, following in zip(layout, [*list(layout.values())[1:], size], strict=True):
        field = packed[layout[name] : following]  # with the padding before the last field
        assert int.from_bytes(field, "little") == getattr(shape, name), name


@pytest.mark.parametrize(
    ("stub", "module"),
    [("core/ops.pyi", ops), ("translate/shape.pyi", shape_module)],
)
def test_stubs_agree_with_the_compiled_enums(stub: str, module: object) -> None:
    tree = ast.parse((SOURCE / stub).read_text(encoding="utf-8"))

    stubs = {
        node.name: {
            statement.targets[0].id: ast.literal_eval(statement.value)
            for statement in node.body
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }

    assert stubs
    for name, members in stubs.items():
        assert members == {member.name: int(member) for member in getattr(module, name)}
