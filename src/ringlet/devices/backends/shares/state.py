"""What a share's guest knows, to be saved with the guest and restored."""

from dataclasses import dataclass, field

from ringlet.devices.backends.shares.share import Share


@dataclass
class InodeState:
    """An inode: its number, the number of its parent, its name there and its type (S_IFMT)."""

    nodeid: int
    parent: int
    name: bytes
    kind: int
    lookups: int


@dataclass
class HandleState:
    """An open file: its number, that of its inode, and the flags of its opening."""

    number: int
    nodeid: int
    flags: int


@dataclass
class ShareState:
    """All that the guest knows of a share; the files themselves are the host's."""

    inodes: list[InodeState] = field(default_factory=list)
    handles: list[HandleState] = field(default_factory=list)
    next_inode: int = 0
    next_handle: int = 0


def save(share: Share) -> ShareState:
    """Return the state of a share; locks are not part of it."""
    raise NotImplementedError


def restore(share: Share, state: ShareState) -> None:
    """Take over a saved state."""
    raise NotImplementedError
