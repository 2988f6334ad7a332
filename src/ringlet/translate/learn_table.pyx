"""Learned shapes: Python asks iced-x86 once for each shape, and compiled code looks it up."""
from enum import IntEnum
from typing import NamedTuple

from libc.string cimport memcpy
from ringlet.core.host cimport host_map, host_unmap
from ringlet.core.ops cimport OP_UD
from ringlet.core.state cimport u8, u16, u32
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *

from ringlet.errors import InternalError

cdef enum:
    KEYS = 1 << 23
    SHAPES = 16384         # count of shape numbers, including 0 and SHAPE_OF_NONE
    SHAPES_STORED = 2048   # maximum of shapes that outlive a run


class DecodeStatus(IntEnum):
    """See `ringlet/translate/insn.pxd`."""

    OK = DECODE_OK
    MORE = DECODE_MORE
    LONG = DECODE_LONG


class Decoded(NamedTuple):
    """The result of decoding: `status` and, if that is `DecodeStatus.OK`, the instruction.

    `key` is the number of `ringlet.translate.key`, `shape` holds the bytes of the C struct, and
    `refused` says that the instruction raises #UD whatever its operands are.
    """

    status: DecodeStatus
    length: int = 0
    key: int = 0
    shape: bytes = b""
    refused: bool = False


cdef class LearnTable:
    """The shapes that one translator knows of `mode`-bit code, at most `capacity` numbers of them.

    The table grows as guests use new instructions.  When it is full it is emptied: only the
    instructions in decoding refer to shapes, and the caller decodes those again.  `shown` are the
    features that the virtual processor's CPUID shows; all by default.
    """

    def __cinit__(self, u32 capacity=SHAPES, shown=None, u32 mode=64):
        if not SHAPE_OF_NONE + 1 < capacity <= SHAPES:
            raise ValueError(f"a shape table has room for 3 to {SHAPES} shapes")
        if mode not in (16, 32, 64):
            raise ValueError(f"{mode}-bit code: the modes are 16, 32 and 64")
        self.t.mode = mode
        self.t.index = <u16*>host_map(KEYS * sizeof(u16))
        self.t.shapes = <Shape*>host_map(SHAPES * sizeof(Shape))
        self.t.met = <u8*>host_map(SHAPES)
        if self.t.index == NULL or self.t.shapes == NULL or self.t.met == NULL:
            raise MemoryError("shape table")
        self.t.capacity = capacity
        # Number 0 means "not learned".
        self.t.count = SHAPE_OF_NONE + 1
        self.t.shapes[SHAPE_OF_NONE].kind = SHAPE_INVALID

    def __init__(self, capacity=SHAPES, shown=None, mode=64):
        from ringlet.translate.features import OFFERED, existing
        from ringlet.translate.key import opcode_groups, parse
        from ringlet.translate.learn import learn_key

        cdef u8* groups = &self.t.groups[0][0][0]
        cdef int i
        cdef bytes flags = opcode_groups(mode)
        self.parse = parse
        self.learn_key = learn_key
        self.features = OFFERED if shown is None else existing(shown)
        self.keys = []
        for i in range(2048):
            groups[i] = flags[i]

    def __dealloc__(self):
        host_unmap(self.t.index, KEYS * sizeof(u16))
        host_unmap(self.t.shapes, SHAPES * sizeof(Shape))
        host_unmap(self.t.met, SHAPES)

    cpdef bint learn(self, bytes code) except -1:
        """Learn the shape of the instruction at the start of `code`; True: others were forgotten.

        InternalError if Python's decoder reads another instruction in the bytes.
        """
        cdef Insn i
        cdef u8 buffer[32]
        cdef int k
        cdef u32 key
        cdef bytes row
        cdef bint full
        for k in range(32):
            buffer[k] = code[k] if k < len(code) else 0
        # `code` may hold only a part of the instruction; the shape depends on its first bytes.
        if decode(&self.t, buffer, 32, &i) != DECODE_LEARN:
            return False
        key = shape_key(&self.t, &i)
        whole = bytes(buffer[:15])
        try:
            parsed = self.parse(whole, self.t.mode)
        except ValueError as error:
            raise disagreement(whole, key) from error
        if parsed is None or parsed.key.pack() != key:
            raise disagreement(whole, key)
        row = self.learn_key(parsed.key, self.features).pack()
        full = self.t.count >= self.t.capacity
        if full:
            self.forget()
        self.add(key, row)
        return full

    cdef add(self, u32 key, const unsigned char[::1] row):
        cdef u32 number = self.t.count
        memcpy(&self.t.shapes[number], &row[0], sizeof(Shape))
        self.t.met[number] = 0
        self.t.index[key] = <u16>number
        self.keys.append(key)
        self.t.count += 1

    cdef forget(self):
        """Forget all shapes."""
        cdef u32 key
        for key in self.keys:
            self.t.index[key] = 0
        self.keys.clear()
        self.t.count = SHAPE_OF_NONE + 1
        self.emptied += 1

    def decode(self, bytes code) -> Decoded:
        """Decode the instruction at the start of `code`, and learn its shape if necessary."""
        cdef Insn i
        cdef u8 buffer[32]
        cdef u32 k, size = min(len(code), 32)
        cdef int status
        for k in range(size):
            buffer[k] = code[k]
        status = decode(&self.t, buffer, size, &i)
        if status == DECODE_LEARN:
            self.learn(code)
            status = decode(&self.t, buffer, size, &i)
        if status != DECODE_OK:
            return Decoded(DecodeStatus(status))
        refused = i.shape.kind == SHAPE_INVALID or (i.shape.kind == SHAPE_OP
                                                    and i.shape.op == OP_UD)
        return Decoded(DecodeStatus.OK, i.length, shape_key(&self.t, &i),
                       (<char*>i.shape)[:sizeof(Shape)], refused)

    def rows(self) -> bytes:
        """Return shapes for `restore`, each after its key; those used in this run come first.

        There are at most SHAPES_STORED of them, so that a later run has room for its own.
        """
        cdef u32 number
        numbers = sorted(range(SHAPE_OF_NONE + 1, self.t.count),
                         key=lambda number: not self.t.met[<u32>number])
        rows = []
        for number in numbers[:SHAPES_STORED]:
            rows.append(self.keys[number - SHAPE_OF_NONE - 1].to_bytes(4, "little"))
            rows.append((<char*>&self.t.shapes[number])[:sizeof(Shape)])
        return b"".join(rows)

    def restore(self, bytes rows):
        """Load `rows` of a table that learned from the same source; ValueError if they are not."""
        cdef u32 step = 4 + sizeof(Shape), at, key
        if (len(rows) % step or self.t.count != SHAPE_OF_NONE + 1
                or len(rows) // step > min(SHAPES_STORED, self.t.capacity - SHAPE_OF_NONE - 1)):
            raise ValueError("no shapes")
        for at in range(0, len(rows), step):
            key = int.from_bytes(rows[at:at + 4], "little")
            # The kind is the first byte of the shape.
            if key >= KEYS or self.t.index[key] or rows[at + 4] > SHAPE_INVALID:
                raise ValueError("no shape")
            self.add(key, rows[at + 4:at + step])

    @property
    def count(self) -> int:
        """Number of known shapes."""
        return self.t.count - SHAPE_OF_NONE - 1


cdef class LearnTables:
    """The shapes of 64-, 32- and 16-bit code, in this order."""

    def __init__(self, shown=None):
        self.all = tuple(LearnTable(shown=shown, mode=mode) for mode in (64, 32, 16))

    cdef void attach(self, void** shapes):
        """Put the addresses of the C structs into `CpuState.shapes`."""
        cdef int i
        for i in range(3):
            shapes[i] = &(<LearnTable>self.all[i]).t

    cdef LearnTable of(self, ShapeTable* t):
        """Return the table whose C struct `t` is."""
        cdef LearnTable table
        for table in self.all:
            if &table.t == t:
                return table
        raise InternalError("a shape table of nobody", {})

    def rows(self) -> bytes:
        """Return the shapes of all for `restore`, the length of each table's before it."""
        rows = [table.rows() for table in self.all]
        return b"".join([len(one).to_bytes(4, "little") + one for one in rows])

    def restore(self, bytes rows):
        """Load what `rows` returned, or nothing; ValueError if it is anything else.

        Rows before the damage stay: each was checked, and is a shape like any other.
        """
        at = 0
        for table in self.all if rows else ():
            size = int.from_bytes(rows[at:at + 4], "little")
            table.restore(rows[at + 4:at + 4 + size])
            at += 4 + size
        if at != len(rows):
            raise ValueError("no shapes")

    @property
    def count(self) -> int:
        """Number of known shapes."""
        return sum([table.count for table in self.all])

    @property
    def emptied(self) -> int:
        """How often one was full, and began anew."""
        return sum([table.emptied for table in self.all])


cdef disagreement(bytes code, u32 key):
    return InternalError("the compiled decoder and Python's disagree",
                         {"code": code.hex(), "key": key})
