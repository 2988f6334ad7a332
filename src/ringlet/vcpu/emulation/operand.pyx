"""A memory operand of an emulated instruction, and the addresses of its last use."""


cdef class Operand:
    """A memory operand as decoded: registers by number (-1: none), segment by SEG_*.

    `align` is the mask of address bits that must be 0; others raise #GP.  `flushes`: segments of
    code that may only be executed can be accessed.  `linear` and the physical addresses are those
    of the last `resolve`.
    """

    def __init__(self, int base, int index, u32 scale, u64 displacement, bint rip_relative,
                 int segment, u64 mask, bint stack, u32 size, bint reads, bint writes):
        self.base = base
        self.index = index
        self.scale = scale
        self.displacement = displacement
        self.rip_relative = rip_relative
        self.segment = segment
        self.mask = mask
        self.stack = stack
        self.size = size
        self.reads = reads
        self.writes = writes

    def units(self) -> list[tuple[int, int, int]]:
        """Return (guest physical address, offset in the operand, size) of its device accesses.

        Each has 1, 2, 4 or 8 bytes and is naturally aligned.
        """
        cdef u64 phys
        cdef u32 part, at, end, unit, start = 0
        result = []
        for part in range(2):
            phys = self.phys[part]
            at = 0
            end = self.length[part]
            if self.mmio >> part & 1:
                while at < end:
                    unit = 8
                    while phys + at & unit - 1 or unit > end - at:
                        unit >>= 1
                    result.append((phys + at, start + at, unit))
                    at += unit
            start += end
        return result
