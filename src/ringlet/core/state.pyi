from enum import IntEnum

class Exit(IntEnum):
    EXIT_NONE = 0
    EXIT_IO_IN = 1
    EXIT_IO_OUT = 2
    EXIT_MMIO_READ = 3
    EXIT_MMIO_WRITE = 4
    EXIT_HLT = 5
    EXIT_SHUTDOWN = 6
    EXIT_INTERRUPTED = 7
    EXIT_WINDOW = 8
    EXIT_EMULATE = 11
    EXIT_LEARN = 12
    EXIT_EOI = 13
    EXIT_DEBUG = 14
    EXIT_NO_RAM = 15
    EXIT_BLOCK = 17
    EXIT_DIRECT = 18

class Key(IntEnum):
    KEY_CPL = 3
    KEY_MODE16 = 4
    KEY_MODE32 = 8
    KEY_MODE64 = 16
    KEY_NM = 32
    KEY_NOSSE = 64
    KEY_NOAVX = 128
    KEY_STEP = 256
    KEY_EM = 512
    KEY_SEGMENTED = 1024
    KEY_STACK16 = 2048
    KEY_CS64K = 4096
    KEY_CS_ODD = 8192
    KEY_DATA64K = 16384
    KEY_PARAGRAPHS = 32768
    KEY_LIMITED = 65536

KEYS_BELOW: int

def offsets() -> dict[str, int]: ...
