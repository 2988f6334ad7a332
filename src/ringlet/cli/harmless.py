"""Takes out of a guest's output what could control the user's terminal, or make it answer."""

import re
from collections.abc import Callable
from typing import Final

_LONGEST: Final = 4096
"""Bytes of an unfinished sequence that are held back."""
_TOKEN: Final = re.compile(
    rb"(?P<text>(?:[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f\xc2]|\xc2[\xa0-\xbf])+)"
    rb"|(?P<colour>\x1b\[[0-9;:]*m)"
    rb"|\x1b\[[0-?]*[ -/]*[@-~]"  # a control sequence (ECMA-48 5.4)
    rb"|\x1b[PX\]^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # a string, such as a title
    rb"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"  # another escape sequence
    rb"|\xc2[\x80-\x9f]"  # C1 controls, in UTF-8
    rb"|\xc2(?=[^\x80-\xbf])"
    rb"|[^\x1b\xc2]",
    re.DOTALL,
)


class Harmless:
    """Passes text and colours on to `sink`, and drops other control characters and sequences."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._held = b""

    def __call__(self, data: bytes) -> None:
        """Take output."""
        data = self._held + data
        at = 0
        kept = []
        while at < len(data):
            found = _TOKEN.match(data, at)
            if found is None:  # an unfinished sequence
                if len(data) - at <= _LONGEST:
                    break
                at += 1  # or one that never ends
                continue
            at = found.end()
            if found["text"] or found["colour"]:
                kept.append(found[0])
        self._held = data[at:]
        if kept:
            self._sink(b"".join(kept))
