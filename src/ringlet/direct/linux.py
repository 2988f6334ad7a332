"""What later versions of Linux do for direct processes."""

import os
from typing import Final

WAKES_HERE: Final = (6, 6)
"""The first whose seccomp can wake the other side of a hand-over on the same processor."""
END_WAKES: Final = (6, 11)
"""The first in which the end of a process ends the wait for what it gives next."""


def linux_version() -> tuple[int, ...]:
    """Major and minor number of the kernel that runs."""
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())
