"""The counters of a run, for the user."""

import contextlib
import sys
from collections.abc import Mapping

from ringlet.observe import format_stats


def print_stats(counters: Mapping[str, int]) -> None:
    """Print a line for each counter on standard error."""
    for line in format_stats(counters):
        with contextlib.suppress(OSError):  # no reason to lose the guest's status
            print(line, file=sys.stderr)
