ARCH_FIELDS: dict[str, tuple[int, int]]
ARCH_SIZE: int
FIELDS: dict[str, tuple[int, int]]
COUNTERS: dict[str, int]
