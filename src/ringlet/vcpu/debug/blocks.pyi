from enum import IntEnum

class Event(IntEnum):
    BLOCK = 1
    EXCEPTION = 2
    INTERRUPT = 3
