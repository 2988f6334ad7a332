"""Things that are closed at the end of a `with`."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Self


class Closing(AbstractContextManager["Closing"]):
    """A context manager that begins with nothing and ends with `close`."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Free what it has of the host."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
