from enum import IntEnum

class DebugReason(IntEnum):
    DEBUG_NOTHING = 0
    DEBUG_BREAKPOINT = 1
    DEBUG_STEPPED = 2
    DEBUG_WATCHPOINT = 3
