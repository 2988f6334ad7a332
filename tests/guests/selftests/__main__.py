"""Runs the self-tests under Ringlet and under QEMU's TCG: `python -m tests.guests.selftests`.

The same kernel and initial RAM disk each time: the verdicts stand side by side, with the reason
under each that is not ok.  The exit status is 0 if nothing fails on Ringlet, or 1.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from ringlet.errors import RingletError
from ringlet.images.debian import fetch_kernel
from tests.guests.selftests.build import KERNEL_LOG, archive, build, names
from tests.guests.selftests.runs import Engine, Guest, Run, Verdict, run

BOOTS = (("vsyscall=xonly", ""), ("vsyscall=none", "vsyscall"), ("vsyscall=emulate", "vsyscall"))
"""Kernel arguments, and the tests that run with them; "" is all."""
NONE = Verdict("FAIL", "no verdict")
"""The verdict on a test that printed none; the complaint about the run gives the reason."""


def print_table(title: str, wanted: list[str], runs: dict[Engine, Run]) -> None:
    """Print a line for each test."""
    print(f"\n{title}")
    print(f"{'':<44}" + "".join(f"{engine:<9}" for engine in runs))
    for name in wanted:
        of_test = {engine: run.verdicts.get(name, NONE) for engine, run in runs.items()}
        print(f"{name:<44}" + "".join(f"{verdict.result:<9}" for verdict in of_test.values()))
        for engine, verdict in of_test.items():
            if verdict.reason and verdict is not NONE:
                print(f"    {engine}: {verdict.reason}")
    for engine, its_run in runs.items():
        results = Counter(its_run.verdicts.get(name, NONE).result for name in wanted)
        counts = ", ".join(f"{results[kind]} {kind}" for kind in ("ok", "skip", "FAIL"))
        print(f"{engine}: {counts} {its_run.complaint}".rstrip())
    sys.stdout.flush()


def wrong(wanted: list[str], runs: dict[Engine, Run]) -> list[str]:
    """Return the names of the tests that Ringlet fails."""
    ours = [runs[engine] for engine in runs if engine is not Engine.QEMU]
    return [name for name in wanted for run in ours if run.verdicts.get(name, NONE).failed]


def main() -> int:
    """Run the chosen tests on the chosen machines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="*", help=", ".join(Engine), metavar="ENGINE")
    parser.add_argument("--only", default="", help="beginnings of names, separated by commas")
    options = parser.parse_args()
    try:
        engines = [Engine(name) for name in options.engines] or [Engine.RINGLET, Engine.QEMU]
    except ValueError as error:
        parser.error(str(error))
    if Engine.QEMU in engines and shutil.which("qemu-system-x86_64") is None:
        sys.exit("there is no qemu-system-x86_64; name the engines, or install qemu-system-x86")
    failed = []
    with tempfile.TemporaryDirectory() as name:
        try:
            program = build(Path(name))
            kernel = fetch_kernel().vmlinuz
        except RingletError as error:
            sys.exit(str(error))
        guest = Guest(kernel, program, Path(name, "initrd.cpio"))
        guest.initrd.write_bytes(archive(program))
        for arguments, part in BOOTS:
            only = options.only or part
            words = tuple(only.split(","))
            wanted = [name for name in names() if name.startswith(words) and part in name]
            wanted = [name for name in wanted if not only or name != KERNEL_LOG]
            runs = {
                engine: run(engine, guest, wanted, arguments, only)
                for engine in engines
                if wanted and not (engine is Engine.NATIVE and part)
            }
            if runs:
                print_table(f"kernel with {arguments}", wanted, runs)
                failed += wrong(wanted, runs)
    print(f"\n{len(failed)} failed on Ringlet" + "".join(f"\n    {name}" for name in failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
