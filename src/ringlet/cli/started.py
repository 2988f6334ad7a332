"""The moment at which the command started; this module must be imported first."""

import time
from typing import Final

STARTED_NS: Final = time.monotonic_ns() - time.process_time_ns()
"""The start by the host's monotonic clock.  Before it, the process has not waited for anything."""
