"""The numbers and records of the agent's protocol; docs/agent.md says how they are used.

guest/protocol.h has the same for the agent, and a test compares the two.  All numbers are
little-endian.
"""

import enum
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

VERSION: Final = 1
MAGIC: Final = b"Ringlet\n"
HEADER: Final = struct.Struct("<II")
"""A frame's channel, and its kind << 24 | the length of its payload."""
HEADER_SIZE: Final = 8
MAX_PAYLOAD: Final = 262144
"""The most bytes of a frame's payload, in both directions."""
MAX_CHANNELS: Final = 256
"""Operations that the agent carries out at once."""
INPUT_WINDOW: Final = 262144
"""Bytes of a command's input that the agent takes before the command has read them."""
ENTRY_SIZE: Final = 64
MAX_TEXT: Final = 512
WORD: Final = struct.Struct("<I")

_HELLO: Final = struct.Struct("<8s8sHH")
_REQUEST: Final = struct.Struct("<BBHHHIIIIQ")
_ENTRY: Final = struct.Struct("<IIIIQqIHHQQQ")
_SIZE: Final = struct.Struct("<HH")


class Kind(enum.IntEnum):
    """What a frame is."""

    HELLO = 1
    OPEN = 2
    DATA_IN = 16
    DATA_OUT = 17
    DATA_ERR = 18
    END_IN = 24
    END_OUT = 25
    END_ERR = 26
    CREDIT_IN = 32
    CREDIT_OUT = 33
    CREDIT_ERR = 34
    SIGNAL = 48
    RESIZE = 49
    STARTED = 64
    EXIT = 65
    ERROR = 66
    RESULT = 67
    CLOSED = 68


class Operation(enum.IntEnum):
    """What OPEN asks for."""

    EXEC = 1
    READ = 2
    WRITE = 3
    STAT = 4
    LIST = 5
    MKDIR = 6
    REMOVE = 7
    RENAME = 8
    SYMLINK = 9
    COPY_IN = 10
    COPY_OUT = 11
    SYNC = 12
    INFO = 13
    TIME = 14
    POWER = 15


class Flag(enum.IntFlag):
    """How OPEN asks for it."""

    NONE = 0
    TERMINAL = 1
    NO_INPUT = 2
    MERGE = 4
    ONLY_GIVEN = 8
    RECURSIVE = 16
    FOLLOW = 32
    MODE = 64
    OWNER = 128


class Tag(enum.IntEnum):
    """A field of OPEN."""

    ARGUMENT = 1
    VARIABLE = 2
    DIRECTORY = 3
    USER = 4
    PATH = 5
    TARGET = 6


class Stage(enum.IntEnum):
    """What failed, in ERROR."""

    OPERATION = 0
    START = 1
    TERMINAL = 2
    USER = 3
    DIRECTORY = 4
    PROGRAM = 5
    INTERPRETER = 6


class Power(enum.IntEnum):
    """How a machine ends."""

    OFF = 0
    REBOOT = 1
    HALT = 2


@dataclass(frozen=True, slots=True)
class Request:
    """The payload of OPEN.  `window`: bytes of each output that may come at first."""

    operation: Operation
    fields: tuple[tuple[Tag, bytes], ...] = ()
    flags: Flag = Flag.NONE
    rows: int = 0
    columns: int = 0
    window: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0

    def encode(self) -> bytes:
        """Return the payload, which may be longer than a frame's."""
        head = _REQUEST.pack(
            self.operation, self.flags, self.rows, self.columns, 0, self.window, self.mode,
            self.uid, self.gid, self.size,
        )  # fmt: skip
        return head + b"".join(
            WORD.pack(tag << 24 | len(text)) + text for tag, text in self.fields
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as the agent describes it; `mode` has its type, as in `os.stat_result`.

    `modified` is in nanoseconds since 1970, `device` and `inode` name the file itself, and `target`
    is what a symbolic link contains.  In a tree, a regular file with a target is a hard link to
    it, and `mode` 0 ends a directory.
    """

    name: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    links: int = 1
    size: int = 0
    modified: int = 0
    inode: int = 0
    device: int = 0
    special: int = 0
    target: bytes = b""

    def encode(self) -> bytes:
        """Return the record, with the name and the target."""
        seconds, nanoseconds = divmod(self.modified, 10**9)
        return (
            _ENTRY.pack(
                self.mode, self.uid, self.gid, self.links, self.size, seconds, nanoseconds,
                len(self.name), len(self.target), self.inode, self.device, self.special,
            )
            + self.name
            + self.target
        )  # fmt: skip


END_OF_DIRECTORY: Final = bytes(ENTRY_SIZE)


def entry_length(head: bytes | bytearray | memoryview) -> int:
    """Return the length of the record that begins with the ENTRY_SIZE bytes `head`."""
    name, target = _SIZE.unpack_from(head, 36)
    return ENTRY_SIZE + int(name) + int(target)


def decode_entry(record: bytes | bytearray | memoryview) -> Entry:
    """Return the Entry of a whole record from the guest.  Raises ValueError if it is none."""
    if len(record) < ENTRY_SIZE or len(record) != entry_length(record):
        raise ValueError("a file's record has a wrong length")
    (
        mode, uid, gid, links, size, seconds, nanoseconds, name, _, inode, device, special,
    ) = _ENTRY.unpack_from(record)  # fmt: skip
    if mode and not stat.S_IFMT(mode):
        raise ValueError("a file's record has no type")
    rest = bytes(record[ENTRY_SIZE:])
    if nanoseconds >= 10**9 or b"\0" in rest:
        raise ValueError("a file's record has an impossible name or time")
    return Entry(
        rest[:name], mode, uid, gid, links, size, seconds * 10**9 + nanoseconds, inode, device,
        special, rest[name:],
    )  # fmt: skip


def frame(channel: int, kind: Kind, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return HEADER.pack(channel, kind << 24 | len(payload)) + payload


def hello(nonce: bytes, lowest: int = VERSION, highest: int = VERSION) -> bytes:
    """Return the frame with which a session begins; `nonce` has 8 bytes."""
    return frame(0, Kind.HELLO, _HELLO.pack(MAGIC, nonce, lowest, highest))


HELLO_BEGINS: Final = hello(bytes(8))[: HEADER_SIZE + len(MAGIC)]
HELLO_SIZE: Final = _HELLO.size


def decode_hello(payload: bytes | bytearray | memoryview) -> tuple[bytes, int, int]:
    """Return the nonce and the versions of a HELLO.  Raises ValueError if it is none."""
    if len(payload) != HELLO_SIZE:
        raise ValueError("a greeting has a wrong length")
    magic, nonce, lowest, highest = _HELLO.unpack(payload)
    if magic != MAGIC:
        raise ValueError("a greeting is not this protocol's")
    return nonce, lowest, highest


def size_of_terminal(rows: int, columns: int) -> bytes:
    """Return the payload of RESIZE."""
    return _SIZE.pack(rows, columns)


def fields(tag: Tag, texts: Iterable[bytes]) -> tuple[tuple[Tag, bytes], ...]:
    """Return fields with the same tag."""
    return tuple((tag, text) for text in texts)
