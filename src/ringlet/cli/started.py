"""When the command began, as far as it can tell itself; import this first."""

import time
from typing import Final

STARTED_NS: Final = time.monotonic_ns() - time.process_time_ns()
"""By the host's monotonic clock.  Until here the process has done nothing but compute."""
