"""Counters that `ringlet run --stats` prints."""

import re


def direct_counters(errors: str) -> dict[str, int]:
    """Return those of direct execution by name, from the standard error of a run."""
    found = re.findall(r"^(direct_\w+) +([\d,]+)", errors, re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in found}
