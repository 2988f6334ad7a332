"""Whose files are whose in the guest, and which mode bits a guest may set.

A server that runs as an ordinary user can own nothing but that user's files.  The guest sees them
as its own root's (or as those of `owner`), files of the host's user with that number as nobody's,
and all others under their numbers.  A server that runs as root changes nothing: numbers are the
same on both sides, and new files belong to the guest's user who makes them.
"""

import errno
import os
import stat
from typing import Final

from ringlet.devices.backends.shares.messages import refuse

NOBODY: Final = 65534
UNCHANGED: Final = 0xFFFFFFFF
_NOT_GIVEN: Final = frozenset({errno.EPERM, errno.EINVAL})
"""The host does not allow it, or the user namespace of this process does not have the number."""


class Owners:
    """The mapping of user and group numbers between the host and the guest."""

    def __init__(self, owner: tuple[int, int] = (0, 0)) -> None:
        self.privileged = os.geteuid() == 0
        self._users = {} if self.privileged else {os.geteuid(): owner[0]}
        self._groups = {} if self.privileged else {os.getegid(): owner[1]}
        for table, number in ((self._users, owner[0]), (self._groups, owner[1])):
            if table:
                table.setdefault(number, NOBODY)
        self.user = self._users.get
        """Called with a host's user number twice, returns the guest's."""
        self.group = self._groups.get
        """Called with a host's group number twice, returns the guest's."""

    def change(self, path: bytes, user: int, group: int) -> None:
        """Change the owner of a file as the guest asks; `UNCHANGED` leaves one as it is.

        Raises OSError with EPERM for owners that the host does not let this process give.
        """
        os.chown(path, _of_host(self._users, user), _of_host(self._groups, group))

    def give(self, name: bytes, directory: int, user: int, group: int) -> None:
        """Give a new file to the guest's user who made it, as far as the host allows it."""
        if self.privileged and (user or group):
            if os.fstat(directory).st_mode & stat.S_ISGID:
                group = -1  # the directory's group
            try:
                os.chown(name, user, group, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NOT_GIVEN:
                    raise


def _of_host(table: dict[int, int], number: int) -> int:
    if number == UNCHANGED:
        return -1
    for host, guest in table.items():
        if guest == number:
            if guest == NOBODY:
                raise refuse(errno.EPERM)
            return host
    if number in table:
        raise refuse(errno.EPERM)
    return number


def safe_mode(mode: int, kind: int) -> int:
    """Return the permission bits that a guest may give to a file of this type.

    Set-user-ID and set-group-ID programs would run on the host with the rights of the user who
    runs Ringlet, so these bits are dropped from files, as Linux drops S_ISGID where it is not
    allowed.
    """
    return mode & (0o7777 if kind == stat.S_IFDIR else 0o1777)
