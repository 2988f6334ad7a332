from enum import IntEnum
from typing import NamedTuple

class Event(IntEnum):
    BLOCK = 1
    EXCEPTION = 2
    INTERRUPT = 3

class EventRecord(NamedTuple):
    kind: int
    cpl: int
    rip: int
    first: int
    second: int
    linear: int
    cs: int
    bits: int
    code: bytes
