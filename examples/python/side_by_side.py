"""Runs a command on two guests at once, with different arguments for their kernels, and compares.

python examples/python/side_by_side.py 'cat /proc/cmdline'
"""

import asyncio
import sys

import ringlet


async def output(command: str, append: str) -> str:
    """Return what a command prints in a guest whose kernel has these arguments."""
    async with ringlet.AsyncMachine("debian", memory="512M", append=append) as machine:
        await machine.start()
        return (await machine.run(command)).stdout.strip()


async def main(command: str) -> None:
    """Run it twice and print both."""
    choices = ("panic=5", "panic=9")
    for choice, text in zip(
        choices, await asyncio.gather(*(output(command, c) for c in choices)), strict=True
    ):
        print(f"{choice}:\n{text}")


if __name__ == "__main__":
    asyncio.run(main(*(sys.argv[1:] or ["cat /proc/sys/kernel/panic"])))
