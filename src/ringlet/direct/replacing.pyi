def replace(
    page: bytes,
    *,
    before: bytes | None = None,
    inner: tuple[int, ...] = (),
    writable: bool = False,
    cpuid: bool = False,
) -> bytes | None: ...
