"""Compares a guest's clock with the host's: `python -m tests.guests.clocks --seconds 120`.

The exit status is 0 if they agree to 0.1 percent.
"""

import argparse
import sys
import time

import ringlet

TOLERANCE = 1e-3
_PROMPT = "# "


def both(machine: ringlet.Machine) -> tuple[float, float]:
    """The seconds since the guest's boot by the guest's clock, and the host's clock."""
    machine.console.send("cut -d' ' -f1 /proc/uptime\n")
    machine.console.expect("uptime\r\n")
    host = time.monotonic()
    return float(machine.console.expect(_PROMPT).split()[0]), host


def main() -> int:
    """Read both clocks twice and compare their progress."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    seconds = parser.parse_args().seconds
    with ringlet.Machine("busybox", memory="256M") as machine:
        machine.start()
        machine.console.expect(_PROMPT)
        guest, host = both(machine)
        time.sleep(seconds)
        later_guest, later_host = both(machine)
    ratio = (later_guest - guest) / (later_host - host)
    print(f"guest {later_guest - guest:.2f} s, host {later_host - host:.2f} s: {ratio:.6f}")
    return abs(ratio - 1) > TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
