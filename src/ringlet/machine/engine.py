"""What makes a machine's processor, and what outlives it."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ringlet.machine.translations import TranslationFile

if TYPE_CHECKING:
    from ringlet.vcpu.processor import Processor

_WORTH_KEEPING: Final = 50
"""A run whose translations are new to less than one in so many leaves the file alone."""


class Engine:
    """Ringlet's own processors, with `exact` as the option of that name has it.

    With a directory, what they translate is kept there for the next guest that starts from the
    same kernel.
    """

    def __init__(
        self, *, exact: bool = False, directory: Path | None = None, kernel: Path | None = None
    ) -> None:
        self._exact = exact
        self._file: TranslationFile | None = None
        self._cpu: Processor | None = None
        if directory is not None and kernel is not None:
            from ringlet.arch.cpuid import features_of
            from ringlet.translate.features import existing
            from ringlet.translate.identity import identity
            from ringlet.vcpu.model import default_entries

            mark = identity(speculate=not exact, features=existing(features_of(default_entries())))
            self._file = TranslationFile(directory, kernel, mark)

    def __call__(self, memory: int) -> "Processor":
        """Return a processor with so many bytes of RAM."""
        # Imported late: the engine is the largest part, and help or a wrong option do not need it.
        from ringlet.vcpu.processor import Processor

        keep = self._file is not None
        self._cpu = Processor(memory, speculate=not self._exact, keep=keep)
        data = self._file.read() if self._file else None
        if data is not None:
            try:
                self._cpu.kept.load(data)
            except ValueError:  # made by a translator that this one cannot be told from
                self._cpu = Processor(memory, speculate=not self._exact, keep=keep)
        return self._cpu

    def keep(self) -> None:
        """Keep what the last processor, which does not run any more, has translated.

        Raises OSError.
        """
        if self._file is None or self._cpu is None:
            return
        kept = self._cpu.kept
        if kept.added * _WORTH_KEEPING > kept.found:
            self._file.write(kept.dump())
