# The enums of shape.pxd, for type checkers: a test compares them.

import enum

class ShapeKind(enum.IntEnum):
    SHAPE_UNKNOWN = 0
    SHAPE_PLAIN = 1
    SHAPE_OP = 2
    SHAPE_JMP = 3
    SHAPE_JCC = 4
    SHAPE_CALL = 5
    SHAPE_JMP_IND = 6
    SHAPE_CALL_IND = 7
    SHAPE_RET = 8
    SHAPE_LOOP = 9
    SHAPE_STRING = 10
    SHAPE_LEAVE = 11
    SHAPE_ADDRESS = 12
    SHAPE_XLAT = 13
    SHAPE_MASKMOV = 14
    SHAPE_GATHER = 15
    SHAPE_BITS = 16
    SHAPE_PUSH_MEM = 17
    SHAPE_POP_MEM = 18
    SHAPE_INVALID = 19

class RegRole(enum.IntEnum):
    ROLE_NONE = 0
    ROLE_8 = 1
    ROLE_16 = 2
    ROLE_32 = 3
    ROLE_64 = 4
    ROLE_READ = 8
    ROLE_WRITE = 16
    ROLE_MAYBE = 32

class MemUse(enum.IntEnum):
    MEM_NONE = 0
    MEM_READ = 1
    MEM_WRITE = 2
    MEM_HINT = 4
    MEM_MAYBE = 8
    MEM_LANES = 16

class UnitUse(enum.IntEnum):
    UNIT_NONE = 0
    UNIT_X87 = 1
    UNIT_SSE = 2
    UNIT_AVX = 3
    UNIT_WAIT = 4

class StackUse(enum.IntEnum):
    STACK_NONE = 0
    STACK_PUSH = 1
    STACK_POP = 2

def layout() -> dict[str, int]: ...
