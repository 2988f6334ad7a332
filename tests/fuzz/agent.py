"""Random frames both ways between a host and an agent: `python -m tests.fuzz.agent --seconds 3600`.

A guest that sends them to `ringlet.control.agent`: every call ends in time, with a result or a
RingletError, and the process grows no more.  A host that sends them to the agent, which is built
with sanitizers and harmless children: it goes on, and answers the next greeting.  Exit status 1 if
not.
"""

import argparse
import contextlib
import random
import resource
import select
import socket
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

from ringlet.control.agent import Agent
from ringlet.errors import RingletError
from ringlet.guest.protocol import (
    HEADER,
    HEADER_SIZE,
    MAX_PAYLOAD,
    WORD,
    Entry,
    Flag,
    Kind,
    Operation,
    Request,
    Tag,
    decode_hello,
    frame,
    hello,
)
from tests.unit.control.agent.native import start
from tests.unit.guest.build import build_with_sanitizers

_PATIENCE = 30.0
_GROWTH = 64 << 10  # KiB: the largest streams of a few calls, several times
_SETTLED = 200  # rounds after which the process should not grow


def random_payload(chance: random.Random) -> bytes:
    """Return a payload: of a length that occurs, a request, a file's record, or noise."""
    match chance.randrange(6):
        case 0:
            return b""
        case 1:
            return WORD.pack(chance.choice([0, 1, 9, 64, 1 << 16, 1 << 18, 0xFFFFFFFF]))
        case 2:
            texts = [(chance.choice(list(Tag)), chance.randbytes(chance.randrange(12)))
                     for _ in range(chance.randrange(5))]  # fmt: skip
            flags = Flag(chance.getrandbits(8))
            operation = chance.choice(list(Operation))
            window = chance.choice([0, 1, 1 << 20])
            return Request(operation, tuple(texts), flags, window=window).encode()
        case 3:
            name = chance.choice([b"a", b"..", b"x/y", b""])
            return Entry(name, chance.choice([0, 0o40755, 0o100644, 0o120777])).encode()
        case 4:
            return struct.pack("<II", chance.randrange(200), chance.randrange(9)) + b"name"
        case _:
            return chance.randbytes(chance.choice([1, 7, 100, 5000, 100_000]))


def random_script(chance: random.Random) -> bytes:
    """Return frames, some of which may belong together, cut and broken now and then."""
    parts = []
    for _ in range(chance.randrange(1, 25)):
        kind = chance.choice(list(Kind))
        parts.append(frame(chance.choice([0, 1, 1, 1, 2, 3]), kind, random_payload(chance)))
        if chance.random() < 0.05:
            parts.append(HEADER.pack(chance.getrandbits(32), chance.getrandbits(32)))
    script = bytearray(b"".join(parts))
    if chance.random() < 0.2:
        script[chance.randrange(len(script))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.2:
        del script[chance.randrange(1, len(script) + 1) :]
    return bytes(script)


# --- a guest against the host's side


def _calls(agent: Agent, room: Path) -> list[threading.Thread]:
    def quietly(function: object) -> None:
        with contextlib.suppress(RingletError, OSError):
            function()  # type: ignore[operator]  # one of those below

    functions = [
        lambda: agent.run("cat", input=bytes(500_000)),
        lambda: agent.files.list("/x"),
        lambda: agent.files.copy_out("/x", room / "copy"),
        agent.info,
    ]
    threads = [threading.Thread(target=quietly, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    return threads


def against_host(chance: random.Random, room: Path) -> None:
    """Play a guest once.  Raises AssertionError if a call does not end."""
    ours, its = socket.socketpair()
    its.settimeout(_PATIENCE)
    with Agent(ours, start_timeout=_PATIENCE) as agent, its:
        threads = _calls(agent, room)
        greeting = its.recv(HEADER_SIZE + 20, socket.MSG_WAITALL)
        its.sendall(hello(decode_hello(greeting[HEADER_SIZE:])[0]))
        with contextlib.suppress(OSError):
            its.sendall(random_script(chance))
            its.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive(), "a call does not end"


# --- a host against the agent


def against_agent(chance: random.Random, stream: socket.socket) -> None:
    """Send frames to the agent.  Raises an exception if it does not go on."""
    for _ in range(2):
        nonce = chance.randbytes(8)
        stream.sendall(hello(nonce))
        seen = b""
        while hello(nonce) not in seen:
            part = stream.recv(1 << 16)
            assert part, "the agent has ended"
            seen = seen[-100:] + part
        # Nothing is read meanwhile, and the agent may stop: not for ever.
        script = random_script(chance)
        sender = threading.Thread(
            target=stream.sendall, args=(script + bytes(MAX_PAYLOAD + HEADER_SIZE),)
        )
        sender.start()
        while sender.is_alive():
            if select.select([stream], [], [], 0.001)[0]:
                assert stream.recv(1 << 16), "the agent has ended"


def campaign(seconds: float, seed: int) -> int:
    """Go on for `seconds`; return the number of rounds.  Raises on the first that fails."""
    end = time.monotonic() + seconds
    rounds = settled = 0
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        process, stream = start(build_with_sanitizers(room, harmless=True))
        stream.settimeout(_PATIENCE)
        try:
            while time.monotonic() < end:
                chance = random.Random(f"{seed} {rounds}")
                against_host(chance, room)
                against_agent(chance, stream)
                rounds += 1
                size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                settled = size if rounds <= _SETTLED else settled
                assert size <= settled + _GROWTH, f"from {settled} to {size} KiB"
        except BaseException:
            print(f"seed {seed}, round {rounds}", file=sys.stderr)
            raise
        finally:
            stream.close()
            _, complaint = process.communicate(timeout=_PATIENCE)
            sys.stderr.write(complaint.decode())
        assert process.returncode == 0, process.returncode
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.agent", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{campaign(options.seconds, options.seed)} rounds, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
