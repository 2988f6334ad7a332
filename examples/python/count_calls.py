"""Counts how often a function of the guest's kernel is called while a command runs.

python examples/python/count_calls.py __x64_sys_openat 'ls -R /etc >/dev/null'
"""

import sys

import ringlet


def main(symbol: str, command: str) -> None:
    """Boot Debian, set a breakpoint that only counts, and run the command."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    with ringlet.Machine("debian", memory="512M") as machine:
        machine.start().ready()
        machine.on(f"break:{symbol}", count)
        machine.run(command)
    print(f"{symbol}: {calls} calls")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["__x64_sys_sethostname", "hostname a; hostname b"]))
