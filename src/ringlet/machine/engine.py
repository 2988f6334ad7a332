"""Makes the processors of a machine, and keeps their translations for later runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ringlet.config import DIRECT
from ringlet.errors import HostError
from ringlet.machine.translations import TranslationFile

if TYPE_CHECKING:
    from ringlet.vcpu.processor import Processor

_WORTH_KEEPING: Final = 50
"""The file is rewritten only if more than one translation in this many is new."""


class Engine:
    """Makes Ringlet's own processors; `exact` and `direct` are the options of the command line.

    With a directory, the processors' translations are kept there for the next guest that starts
    from the same kernel.
    """

    def __init__(
        self,
        *,
        exact: bool = False,
        direct: str = DIRECT.default,
        directory: Path | None = None,
        kernel: Path | None = None,
    ) -> None:
        self._exact = exact
        self._direct = direct
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
        """Return a processor with `memory` bytes of RAM."""
        # Imported late, because the engine is the largest part and help does not need it.
        from ringlet.vcpu.processor import Processor

        keep = self._file is not None
        self._cpu = Processor(memory, speculate=not self._exact, keep=keep)
        data = self._file.read() if self._file else None
        if data is not None:
            try:
                self._cpu.kept.load(data)
            except ValueError:  # another translator with the same identity made the file
                self._cpu = Processor(memory, speculate=not self._exact, keep=keep)
        if self._direct != "never":
            self._execute_directly(self._cpu)
        return self._cpu

    def _execute_directly(self, cpu: "Processor") -> None:
        """Let user code run directly if the host allows it.  Raises HostError if it must."""
        from ringlet.direct.zygote import LIMIT, Zygote

        always = self._direct == "always"
        try:
            zygote = Zygote()
        except OSError as error:
            if always:
                reason = error.strerror or error
                raise HostError(
                    f"the host cannot run user code directly: {reason}; let direct be auto or never"
                ) from error
            return
        cpu.execute_directly(zygote.make, LIMIT, always=always, cpuid=not zygote.cpuid_faults)

    def let_go(self) -> None:
        """Forget the last processor, so that its memory can be freed."""
        self._cpu = None

    def keep(self) -> None:
        """Write the translations of the last processor to the file.  The processor must not run.

        Raises OSError.
        """
        if self._file is None or self._cpu is None:
            return
        kept = self._cpu.kept
        if kept.added * _WORTH_KEEPING > kept.found:
            self._file.write(kept.dump())
