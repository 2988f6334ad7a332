"""What the host says to direct execution."""

import os

from ringlet.direct.zygote import Zygote


def obstacle(*, always: bool = False) -> str:
    """Make a direct process and say what hinders it, or return an empty text.

    `always`: even where it is slower than translated code.
    """
    ram = os.memfd_create("ringlet-doctor", os.MFD_CLOEXEC)
    try:
        process = Zygote().make([ram])
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(ram)
    if process.wakes_here or always:
        return ""
    return "Linux before 6.6 continues a waiting process on another processor, which takes too long"
