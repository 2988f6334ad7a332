from enum import IntEnum
from typing import NamedTuple

from ringlet.translate.kept_translations import KeptTranslations

BLOCK: int
SOURCE: int
DEFAULT_KEY: int
SLOTS: tuple[int, int]
NEGATED_SLOTS: tuple[int, int]
JUMP_TABLE: int
TABLE_BYTES: int
KEYS: dict[str, int]

class Relocation(IntEnum):
    STATE = ...
    RIP32 = ...
    RIP64 = ...
    NRIP64 = ...
    SLOT = ...
    STUB = ...
    OP = ...
    SOURCE = ...
    FRAGMENT = ...
    FIELD = ...
    FIELD64 = ...
    TABLE = ...

class Stub(IntEnum):
    LINK = ...
    INDIRECT = ...
    OP = ...
    LEAVE = ...
    STALE = ...

class Translation(NamedTuple):
    linear: int
    guest_bytes: int
    guest_instructions: int
    code: bytes
    body: int
    map: tuple[tuple[int, int], ...]
    links: tuple[tuple[int, int], ...]
    relocations: tuple[tuple[int, int, int], ...]
    operations: tuple[tuple[int, int], ...]
    key: int
    cold: int
    resumes: tuple[int, ...]
    checked: bool
    @property
    def host_bytes(self) -> int: ...

class InPage(NamedTuple):
    code: bytes
    map: tuple[tuple[int, int], ...]
    links: tuple[tuple[int, int], ...]
    operations: tuple[tuple[int, int, bytes], ...]

class Sweep(NamedTuple):
    fragments: int
    guest_instructions: int
    guest_bytes: int
    host_bytes: int
    cache_bytes: int

class Translator:
    def __init__(self, speculate: bool = ...) -> None: ...
    @property
    def shapes(self) -> int: ...
    def translate(
        self,
        data: bytes,
        linear: int = ...,
        key: int = ...,
        limit: int = ...,
        indirect: bool = ...,
        checked: bool = ...,
    ) -> Translation: ...
    @property
    def kept(self) -> KeptTranslations: ...
    def translate_in(
        self, page: bytes, at: int, linear: int, key: int = ..., indirect: bool = ...
    ) -> InPage: ...
    def sweep(self, text: bytes, linear: int, key: int = ...) -> Sweep: ...
