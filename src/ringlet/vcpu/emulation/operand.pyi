from typing import final

@final
class Operand:
    def __init__(
        self,
        base: int,
        index: int,
        scale: int,
        displacement: int,
        rip_relative: bool,
        segment: int,
        mask: int,
        stack: bool,
        size: int,
        reads: bool,
        writes: bool,
    ) -> None: ...
    size: int
    @property
    def reads(self) -> bool: ...
    @property
    def writes(self) -> bool: ...
    @property
    def linear(self) -> int: ...
    align: int
    flushes: bool
    def units(self) -> list[tuple[int, int, int]]: ...
