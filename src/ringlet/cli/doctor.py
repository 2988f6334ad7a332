"""`ringlet doctor`: lists what the host offers and lacks, and what to do about it."""

import json

from ringlet import __version__
from ringlet.cli.streams import complain, emit
from ringlet.machine import host
from ringlet.machine.host import Finding, Verdict

STATUS_UNSUITABLE = 2


def run_doctor(*, as_json: bool = False) -> int:
    """Print the findings and return 0 if a guest can run here, else 2."""
    findings = host.examine()
    missing = [f.name for f in findings if f.verdict is Verdict.MISSING]
    if as_json:
        emit(json.dumps(report(findings), indent=2))
        return STATUS_UNSUITABLE if missing else 0
    width = max(len(f.name) for f in findings)
    for finding in findings:
        line = f"{finding.verdict.value:<8} {finding.name:<{width}}  {finding.text}"
        emit(f"{line}: {finding.remedy}" if finding.remedy else line)
    if missing:
        complain(f"no guest can run on this host: it lacks {', '.join(missing)}")
        return STATUS_UNSUITABLE
    emit("guests can run on this host")
    return 0


def report(findings: list[Finding]) -> dict[str, object]:
    """Return the findings for other programs: whether guests can run, and each check."""
    return {
        "version": __version__,
        "ok": all(f.verdict is not Verdict.MISSING for f in findings),
        "checks": [
            {"name": f.name, "verdict": f.verdict.value, "text": f.text, "remedy": f.remedy}
            for f in findings
        ],
    }
