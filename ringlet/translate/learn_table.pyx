"""Shapes as they are learned: Python asks iced-x86 once per shape, compiled code looks it up."""
from libc.string cimport memset
from ringlet.core.state cimport u8, u16, u32
from ringlet.translate.insn cimport *
from ringlet.translate.shape cimport *

cdef extern from * nogil:
    """
    #include <sys/mman.h>
    static void *ringlet_shape_map(unsigned long size)
    {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    static void ringlet_shape_unmap(void *p, unsigned long size) { if (p) munmap(p, size); }
    """
    void* ringlet_shape_map(unsigned long size)
    void ringlet_shape_unmap(void* p, unsigned long size)

cdef enum:
    KEYS = 1 << 23
    CAPACITY = 16384


cdef class LearnTable:
    """The shapes one translator knows; they grow as guests show new instructions."""

    def __cinit__(self):
        self.t.index = <u16*>ringlet_shape_map(KEYS * sizeof(u16))
        self.t.shapes = <Shape*>ringlet_shape_map(CAPACITY * sizeof(Shape))
        if self.t.index == NULL or self.t.shapes == NULL:
            raise MemoryError("shape table")
        self.t.capacity = CAPACITY
        # Shape 1 is that of no instruction; 0 stands for "not learned".
        self.t.count = 2
        self.t.shapes[1].kind = SHAPE_INVALID

    def __init__(self):
        from ringlet.translate.learn import learn, opcode_groups

        cdef int enc, map_, opcode
        self.learner = learn
        for (enc, map_, opcode), flags in opcode_groups(64).items():
            self.t.groups[enc][map_][opcode] = flags

    def __dealloc__(self):
        ringlet_shape_unmap(self.t.index, KEYS * sizeof(u16))
        ringlet_shape_unmap(self.t.shapes, CAPACITY * sizeof(Shape))

    cpdef learn(self, bytes code):
        """Learn the shape of the instruction at the start of `code`."""
        cdef Insn i
        cdef u8 buffer[32]
        cdef int k
        cdef Shape* s
        for k in range(32):
            buffer[k] = code[k] if k < len(code) else 0
        # The instruction may be cut off at the end of `code`; its shape is in its first bytes.
        if decode(&self.t, buffer, 32, &i) != DECODE_LEARN:
            return
        if self.t.count >= self.t.capacity:
            raise RuntimeError("shape table full")
        row = self.learner(bytes(buffer[:15]))
        s = &self.t.shapes[self.t.count]
        s.kind = row.kind
        s.op = row.op
        s.modrm = row.modrm
        s.imm = row.imm
        s.reg = row.reg
        s.rm = row.rm
        s.vvvv = row.vvvv
        s.opreg = row.opreg
        s.mem = row.mem
        s.mem_size = row.mem_size
        s.unit = row.unit
        s.stack = row.stack
        s.implicit_read = row.implicit_read
        s.implicit_write = row.implicit_write
        s.flags_read = row.flags_read
        s.flags_kill = row.flags_kill
        s.flags_write = row.flags_write
        s.size = row.size
        s.traps = row.traps
        s.code16[0] = row.code & 0xFF
        s.code16[1] = (row.code >> 8) & 0xFF
        self.t.index[shape_key(&self.t, &i)] = <u16>self.t.count
        self.t.count += 1

    @property
    def count(self) -> int:
        """How many shapes are known."""
        return self.t.count - 2
