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
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from ringlet.control.agent import Agent, connection
from ringlet.errors import HostError, InternalError, RingletError, unexpected
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
from tests.fuzz.agent_guest import Liar
from tests.fuzz.samples import open_files
from tests.unit.control.agent.native import start
from tests.unit.guest.build import build_with_sanitizers

_PATIENCE = 120.0
_GROWTH = 64 << 10  # KiB: the largest streams of a few calls, several times
_SETTLED = 200  # rounds after which the process should not grow
_LIMITS = [10, 1 << 20, 1 << 36]
_FROM_HOST = (
    *(Kind.DATA_IN,) * 6, Kind.END_IN, Kind.END_OUT, Kind.END_ERR, *(Kind.CREDIT_OUT,) * 3,
    Kind.CREDIT_ERR, Kind.SIGNAL, Kind.RESIZE,
)  # fmt: skip
_SECRET = b"of the host"
_THREADS = 4  # the main one, and two that may just be ending
_ROOM = ["agent-checked", "copy", "secret", "tree"]


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


def session(chance: random.Random) -> list[bytes]:
    """Return a host's frames for operations that begin as they should, a few or too many."""
    channels = range(1, chance.choice([2] * 4 + [4] * 15 + [300]))
    words = [b"cat", b"", b"x" * 5000]
    parts = []
    for channel in channels:
        request = Request(
            chance.choice(list(Operation)[:12]), ((Tag.ARGUMENT, chance.choice(words)),),
            Flag(chance.getrandbits(8)), window=chance.choice([0, 1, 9, 1 << 20, (1 << 32) - 1]),
        )  # fmt: skip
        parts.append(frame(channel, Kind.OPEN, request.encode()))
    for _ in range(chance.randrange(40)):
        kind = chance.choice(_FROM_HOST)
        payload = b""
        if kind is Kind.DATA_IN:
            payload = chance.randbytes(chance.choice([0, 1, 100, 70_000, MAX_PAYLOAD]))
        elif kind in {Kind.CREDIT_OUT, Kind.CREDIT_ERR, Kind.RESIZE}:
            payload = WORD.pack(chance.choice([0, 1, 1 << 18, (1 << 32) - 1]))
        elif kind is Kind.SIGNAL:
            payload = WORD.pack(chance.choice([0, 1, 9, 15, 18, 19, 64, 65, (1 << 32) - 1]))
        parts.append(frame(chance.choice(channels), kind, payload))
    return parts


def random_script(chance: random.Random) -> bytes:
    """Return frames, some of which may belong together, cut and broken now and then."""
    parts = session(chance) if chance.random() < 0.6 else []
    for _ in range(chance.randrange(1, 25) if not parts or chance.random() < 0.3 else 0):
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


def _calls(agent: Agent, room: Path, chance: random.Random) -> list[Callable[[], object]]:
    """Return calls of every kind, some of them with a time limit."""
    files = agent.files
    data = bytes(chance.choice([0, 10, 500_000]))
    tree, copy = room / "tree", room / "copy"

    def process() -> None:
        with agent.popen(["cat"], tty=chance.random() < 0.5, timeout=2) as running:
            running.stdout.read1(100)
            running.resize(5, 9)
            assert running.stdin is not None
            running.stdin.write(data[:1000])
            running.stdin.close()
            running.terminate()
            running.stdout.read()
            repr(running)
            running.wait(2)

    return [
        lambda: agent.run("cat", input=data),
        lambda: agent.run(["cat"], input=data, timeout=1, check=True, text=False),
        lambda: agent.run("x", tty=True, size=(9, 9), timeout=0.02, on_stdout=len),
        lambda: repr(agent.run("x", merge=True, env={"A": "B"}, user=5, cwd="/x").check()),
        process,
        lambda: files.read_text("/x", limit=chance.choice([5, 1 << 20])),
        lambda: files.write("/x", data, mode=0o600, owner=(1, 2), timeout=2),
        lambda: repr(files.stat("/x")),
        lambda: files.exists("/x", follow=False),
        lambda: repr(files.list("/x")),
        lambda: files.mkdir("/x"),
        lambda: files.rename("/x", "y"),
        lambda: files.symlink("/x", "y"),
        lambda: files.remove("/x", recursive=True, missing_ok=True),
        lambda: files.copy_in(tree, "/x"),
        lambda: files.copy_out("/x", copy / f"{chance.randrange(3)}", limit=chance.choice(_LIMITS)),
        lambda: files.copy_out("/x", copy, limit=1 << 20),
        agent.info,
        agent.time,
        agent.sync,
        lambda: agent.shutdown(force=True),
    ]


def _call(function: Callable[[], object], defects: list[str]) -> None:
    try:
        function()
    except (RingletError, OSError):
        return
    except Exception:  # noqa: BLE001  # whatever it is, it is what is looked for
        defects.append(traceback.format_exc())


def against_host(chance: random.Random, room: Path) -> None:
    """Play a guest once.  Raises AssertionError if a call does not end, or not as it may."""
    ours, its = socket.socketpair()
    its.settimeout(_PATIENCE)
    defects: list[str] = []
    shutil.rmtree(room / "copy", ignore_errors=True)
    (room / "copy").mkdir()
    with Agent(ours, start_timeout=_PATIENCE) as agent, its:
        functions = chance.sample(_calls(agent, room, chance), chance.choice([1, 4]))
        threads = [
            threading.Thread(target=_call, args=(f, defects), daemon=True) for f in functions
        ]
        lies = random.Random(chance.random())
        liar = Liar(its, lies, bytes(room / "secret")) if chance.random() < 0.8 else None
        for thread in threads:
            thread.start()
        if liar is None:
            _random_guest(chance, its)
        for thread in threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive(), "a call does not end"
    if liar is not None:
        liar.thread.join(_PATIENCE)
    assert not defects, defects[0]
    assert sorted(path.name for path in room.iterdir()) == _ROOM, "something was made elsewhere"
    assert (room / "secret").read_bytes() == _SECRET, "a file beside the copy was changed"


def _random_guest(chance: random.Random, its: socket.socket) -> None:
    """Answer the greeting, and whatever is asked by frames that belong to nothing."""
    with contextlib.suppress(OSError):
        greeting = its.recv(HEADER_SIZE + 20, socket.MSG_WAITALL)
        its.sendall(hello(decode_hello(greeting[HEADER_SIZE:])[0]))
        its.sendall(random_script(chance))
        its.shutdown(socket.SHUT_WR)


def prepare(room: Path) -> None:
    """Make what calls copy in, and what no guest may change."""
    (room / "tree" / "inner").mkdir(parents=True)
    (room / "tree" / "large").write_bytes(bytes(300_000))
    (room / "tree" / "link").symlink_to("large")
    (room / "secret").write_bytes(_SECRET)


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


def watch_defects() -> list[str]:
    """Return a list that gets the exceptions that the connection's thread reports as lost."""
    defects: list[str] = []

    def noted(
        error: Exception, details: Mapping[str, object] | None = None
    ) -> HostError | InternalError:
        defects.append("".join(traceback.format_exception(error)))
        return unexpected(error, details)

    vars(connection)["unexpected"] = noted  # for this process
    return defects


def campaign(seconds: float, seed: int) -> int:
    """Go on for `seconds`; return the number of rounds.  Raises on the first that fails."""
    end = time.monotonic() + seconds
    rounds = settled = files = 0
    threads = threading.active_count()  # others of this process
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        prepare(room)
        process, stream = start(build_with_sanitizers(room, harmless=True))
        hidden = watch_defects()
        stream.settimeout(_PATIENCE)
        try:
            while time.monotonic() < end:
                against_host(random.Random(f"{seed} {rounds} host"), room)
                assert not hidden, hidden[0]
                against_agent(random.Random(f"{seed} {rounds} agent"), stream)
                rounds += 1
                size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                settled = size if rounds <= _SETTLED else settled
                assert size <= settled + _GROWTH, f"from {settled} to {size} KiB"
                files = files or open_files()
                assert open_files() <= files + 2, f"from {files} to {open_files()} descriptors"
                assert threading.active_count() <= threads + _THREADS, threading.enumerate()
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
