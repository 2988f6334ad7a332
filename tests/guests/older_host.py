"""The command `ringlet` as on a host with Linux 5.11, which does less for direct processes.

    python -m tests.guests.older_host run debian
"""

from __future__ import annotations

import sys

from ringlet.cli.main import command
from ringlet.direct.zygote import Zygote
from ringlet.machine.host import LEAST_KERNEL

if __name__ == "__main__":
    defaults = Zygote.__init__.__kwdefaults__
    assert defaults is not None
    defaults["linux"] = LEAST_KERNEL
    sys.exit(command())
