"""`Shape` for Python: the enums of shape.pxd, and the layout of the C struct."""


def layout() -> dict[str, int]:
    """Return the offset of each field of the C struct `Shape`, and its size as `struct`."""
    cdef Shape* s = NULL
    return {
        "kind": <size_t>&s.kind, "op": <size_t>&s.op, "modrm": <size_t>&s.modrm,
        "imm": <size_t>&s.imm, "reg": <size_t>&s.reg, "rm": <size_t>&s.rm,
        "vvvv": <size_t>&s.vvvv, "opreg": <size_t>&s.opreg, "mem": <size_t>&s.mem,
        "mem_size": <size_t>&s.mem_size, "unit": <size_t>&s.unit, "stack": <size_t>&s.stack,
        "implicit_read": <size_t>&s.implicit_read, "implicit_write": <size_t>&s.implicit_write,
        "flags_read": <size_t>&s.flags_read, "flags_kill": <size_t>&s.flags_kill,
        "flags_write": <size_t>&s.flags_write, "size": <size_t>&s.size,
        "width": <size_t>&s.width, "traps": <size_t>&s.traps, "code16": <size_t>&s.code16[0],
        "struct": sizeof(Shape),
    }
