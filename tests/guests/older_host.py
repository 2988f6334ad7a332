"""The command `ringlet` as on a host with Linux before 6.6, which wakes processes elsewhere.

    python -m tests.guests.older_host run debian
"""

from __future__ import annotations

import sys

from ringlet.cli.main import command
from ringlet.direct.zygote import Zygote

if __name__ == "__main__":
    defaults = Zygote.__init__.__kwdefaults__
    assert defaults is not None
    defaults["wakes_here"] = False
    sys.exit(command())
