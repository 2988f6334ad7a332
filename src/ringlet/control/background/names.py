"""Names of machines, by Docker's rule."""

import random
import re
from collections.abc import Container
from typing import Final

from ringlet.errors import ConfigError, printable

LONGEST: Final = 64
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_FIRST: Final = (
    "amber", "bold", "brave", "calm", "clear", "cool", "eager", "fair", "fast", "fine", "glad",
    "gold", "keen", "kind", "light", "lucid", "mild", "neat", "plain", "proud", "quick", "quiet",
    "ready", "sharp", "silver", "smart", "sound", "spry", "still", "swift", "warm", "wise",
)  # fmt: skip
_SECOND: Final = (
    "ash", "bay", "birch", "brook", "cedar", "cliff", "cloud", "coast", "creek", "dune", "elm",
    "fern", "field", "fjord", "grove", "heath", "hill", "isle", "lake", "larch", "marsh", "meadow",
    "moor", "oak", "peak", "pine", "ridge", "river", "shore", "stone", "vale", "willow",
)  # fmt: skip


def check_name(name: str) -> str:
    """Return `name` if a machine may have it.  Raises ConfigError."""
    if len(name) > LONGEST or _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{printable(name[: LONGEST + 1])!r} cannot be a machine's name; give up to {LONGEST} "
            "letters, digits, - _ and ., with a letter or digit first"
        )
    return name


def make_name(taken: Container[str]) -> str:
    """Return a short name that is not `taken`."""
    words = random.SystemRandom()
    name = f"{words.choice(_FIRST)}-{words.choice(_SECOND)}"
    while name in taken:
        name = f"{words.choice(_FIRST)}-{words.choice(_SECOND)}-{words.randrange(1000)}"
    return name
