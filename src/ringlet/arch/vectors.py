"""Exceptions by their vectors (SDM 3A table 6-1)."""

from typing import Final

EXCEPTIONS: Final = dict(
    enumerate(
        ("#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "vector 9", "#TS", "#NP",
         "#SS", "#GP", "#PF", "vector 15", "#MF", "#AC", "#MC", "#XM")
    )
)  # fmt: skip

WITH_ERROR_CODE: Final = frozenset({8, 10, 11, 12, 13, 14, 17})


def describe(vector: int, error: int) -> str:
    """Return the name of an exception, with its error code if it pushes one."""
    name = EXCEPTIONS.get(vector, f"vector {vector}")
    return f"{name}({error:04x})" if vector in WITH_ERROR_CODE else name
