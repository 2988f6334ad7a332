"""What the host says to direct execution."""

import os

from ringlet.direct.zygote import Zygote


def obstacle() -> str:
    """Make a direct process and say what hinders it, or return an empty text."""
    ram = os.memfd_create("ringlet-doctor", os.MFD_CLOEXEC)
    try:
        Zygote().make([ram])
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(ram)
    return ""
