FIELDS: dict[str, tuple[int, int]]
COUNTERS: dict[str, int]
