"""Shapes as they are learned: Python asks iced-x86 once per shape, compiled code looks it up."""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.string cimport memcpy
from ringlet.core.host cimport host_map, host_unmap
from ringlet.core.state cimport u8, u16, u32
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *

cdef enum:
    KEYS = 1 << 23
    CAPACITY = 16384


cdef class LearnTable:
    """The shapes one translator knows; they grow as guests show new instructions.

    `shown` are the features that the virtual processor's CPUID shows; all by default.
    """

    def __cinit__(self):
        self.t.index = <u16*>host_map(KEYS * sizeof(u16))
        self.t.shapes = <Shape*>host_map(CAPACITY * sizeof(Shape))
        if self.t.index == NULL or self.t.shapes == NULL:
            raise MemoryError("shape table")
        self.t.capacity = CAPACITY
        # Shape 1 is that of no instruction; 0 stands for "not learned".
        self.t.count = 2
        self.t.shapes[1].kind = SHAPE_INVALID

    def __init__(self, shown=None):
        from ringlet.translate.features import OFFERED, existing
        from ringlet.translate.key import opcode_groups
        from ringlet.translate.learn import learn

        cdef u8* groups = &self.t.groups[0][0][0]
        cdef int i
        cdef bytes flags = opcode_groups(64)
        self.features = OFFERED if shown is None else existing(shown)
        self.learner = learn
        self.keys = []
        for i in range(2048):
            groups[i] = flags[i]

    def __dealloc__(self):
        host_unmap(self.t.index, KEYS * sizeof(u16))
        host_unmap(self.t.shapes, CAPACITY * sizeof(Shape))

    cpdef learn(self, bytes code):
        """Learn the shape of the instruction at the start of `code`."""
        cdef Insn i
        cdef u8 buffer[32]
        cdef int k
        cdef bytes row
        for k in range(32):
            buffer[k] = code[k] if k < len(code) else 0
        # The instruction may be cut off at the end of `code`; its shape is in its first bytes.
        if decode(&self.t, buffer, 32, &i) != DECODE_LEARN:
            return
        if self.t.count >= self.t.capacity:
            raise RuntimeError("shape table full")
        row = self.learner(bytes(buffer[:15]), 64, self.features).pack()
        memcpy(&self.t.shapes[self.t.count], PyBytes_AS_STRING(row), sizeof(Shape))
        self.t.index[shape_key(&self.t, &i)] = <u16>self.t.count
        self.keys.append(shape_key(&self.t, &i))
        self.t.count += 1

    def rows(self) -> bytes:
        """All shapes, each after its key, for `restore`."""
        cdef u32 i
        return b"".join([self.keys[i - 2].to_bytes(4, "little")
                         + (<char*>&self.t.shapes[i])[:sizeof(Shape)]
                         for i in range(2, self.t.count)])

    def restore(self, bytes rows):
        """Take `rows` of a table that learned from the same source; ValueError if it cannot be."""
        cdef u32 step = 4 + sizeof(Shape), at, key, number
        if len(rows) % step or self.t.count != 2 or len(rows) // step > CAPACITY - 2:
            raise ValueError("no shapes")
        for at in range(0, len(rows), step):
            key = int.from_bytes(rows[at:at + 4], "little")
            number = self.t.count
            memcpy(&self.t.shapes[number], PyBytes_AS_STRING(rows) + at + 4, sizeof(Shape))
            if key >= KEYS or self.t.shapes[number].kind > SHAPE_INVALID:
                raise ValueError("no shape")
            self.t.index[key] = <u16>number
            self.keys.append(key)
            self.t.count += 1

    @property
    def count(self) -> int:
        """How many shapes are known."""
        return self.t.count - 2
