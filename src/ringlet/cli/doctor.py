"""`ringlet doctor`: lists what the host offers and lacks, and what to do about it."""

from ringlet.cli.streams import complain, emit
from ringlet.machine import host
from ringlet.machine.host import Verdict


def run_doctor() -> int:
    """Print the findings and return 0 if a guest can run here, else 2."""
    findings = host.examine()
    width = max(len(f.name) for f in findings)
    for finding in findings:
        line = f"{finding.verdict.value:<8} {finding.name:<{width}}  {finding.text}"
        emit(f"{line}: {finding.remedy}" if finding.remedy else line)
    missing = [f.name for f in findings if f.verdict is Verdict.MISSING]
    if missing:
        complain(f"no guest can run on this host: it lacks {', '.join(missing)}")
        return 2
    emit("guests can run on this host")
    return 0
