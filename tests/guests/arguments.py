"""Values of the options of the commands in `tests.guests`."""

import argparse


def positive(text: str) -> int:
    """Return the positive number that `text` stands for, as a type of `argparse`."""
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number
