"""Reads cpio archives as Linux does."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    mode: int
    inode: int
    owners: tuple[int, int]
    links: int
    time: int
    device: tuple[int, int]
    content: bytes


def members(archive: bytes) -> dict[str, Member]:
    """Read an archive as Linux's init/initramfs.c does, up to its trailer."""
    found: dict[str, Member] = {}
    at = 0
    while True:
        header = archive[at : at + 110]
        assert header[:6] == b"070701"
        f = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + f[11]]
        assert name[-1:] == b"\0"
        at = (at + 110 + f[11] + 3) & ~3
        content = archive[at : at + f[6]]
        at = (at + f[6] + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return found
        found[name[:-1].decode()] = Member(
            f[1], f[0], (f[2], f[3]), f[4], f[5], (f[9], f[10]), content
        )
