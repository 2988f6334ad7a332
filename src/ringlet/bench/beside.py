"""Starts what a benchmark's command needs beside it, then the command itself, and ends with it.

    python -m ringlet.bench.beside pasta ARGUMENT... -- COMMAND...
    python -m ringlet.bench.beside [virtiofsd DIRECTORY] [nat] -- QEMU...

`pasta` gives the command a network of its own, through the same engine that serves guests.
`virtiofsd` and `nat` serve QEMU: "{virtiofsd}" in its arguments becomes the socket of the first,
and "{nat}" the network, by passt where it can run and else by libslirp within QEMU, which is the
order in which Ringlet tries them too.  Processor time of them all counts as the command's.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ringlet.devices.backends.network.addresses import GATEWAY, GUEST, PREFIX
from ringlet.devices.backends.network.engines import PASST
from ringlet.errors import HostError, RingletError

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_PDEATHSIG: Final = 1
_READY_S: Final = 15
_VIRTIOFSD: Final = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command after "--" and return its status, or 2 with a line that says why not."""
    ends = arguments.index("--")
    words, command = list(arguments[:ends]), list(arguments[ends + 1 :])
    try:
        if words[:1] == ["pasta"]:
            return _in_network(words[1:], command)
        return _with_servers(words, command)
    except RingletError as error:
        print(error, file=sys.stderr)
        return 2


def user_namespaces() -> bool:
    """Return whether this user may make user namespaces with a network, which passt needs."""
    child = os.fork()
    if not child:
        os._exit(_libc.unshare(_NEWUSER | _NEWNET) != 0)
    return os.waitpid(child, 0)[1] == 0


def _in_network(arguments: list[str], command: list[str]) -> int:
    if shutil.which("pasta") is None:
        raise HostError("the native network is the host's through pasta; install passt")
    if not user_namespaces():
        raise HostError("the native network needs pasta, for which this host has no namespaces")
    entered, may_map = os.pipe()
    go, may_go = os.pipe()
    user, group = os.geteuid(), os.getegid()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            if _libc.unshare(_NEWUSER | _NEWNET) == 0:
                # Entering a namespace might clear it.
                _libc.prctl(_PDEATHSIG, signal.SIGKILL)
                os.write(may_map, b"x")
                os.close(may_go)
                if os.read(go, 1):
                    os.execvp(command[0], command)  # noqa: S606 - the command, as it is
        os._exit(127)
    os.close(may_map)
    if not os.read(entered, 1):
        raise HostError("this host refuses a namespace for the network that it has just allowed")
    Path(f"/proc/{child}/setgroups").write_text("deny", encoding="utf-8")
    Path(f"/proc/{child}/uid_map").write_text(f"0 {user} 1", encoding="utf-8")
    Path(f"/proc/{child}/gid_map").write_text(f"0 {group} 1", encoding="utf-8")
    # As root, pasta would become nobody, who may not enter root's namespace.
    stay = [] if user else ["--runas", "0:0"]
    pasta = ["pasta", "--config-net", "-f", "-q", "-4", "-m", str(PASST.mtu), *arguments, *stay,
             "-t", "none", "-u", "none", "-T", "none", "-U", "none", str(child)]  # fmt: skip
    with _serving(pasta) as engine:
        routes = Path(f"/proc/{child}/net/route")
        _wait_for(engine, lambda: len(routes.read_text(encoding="utf-8").splitlines()) > 1)
        os.write(may_go, b"x")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _with_servers(words: list[str], command: list[str]) -> int:
    kept: tuple[int, ...] = ()
    with contextlib.ExitStack() as stack:
        if words[:1] == ["virtiofsd"]:
            path = stack.enter_context(_virtiofsd(words[1]))
            command = [text.replace("{virtiofsd}", path) for text in command]
        if words[-1:] == ["nat"]:
            text, kept = stack.enter_context(_nat())
            command = [word.replace("{nat}", text) for word in command]
        return subprocess.run(_bound(command), pass_fds=kept, check=False).returncode


@contextlib.contextmanager
def _virtiofsd(directory: str) -> Iterator[str]:
    """Serve `directory`; give the path of the socket."""
    found = shutil.which("virtiofsd") or next((p for p in _VIRTIOFSD if Path(p).exists()), None)
    if found is None:
        raise HostError("QEMU shares directories by virtiofsd; install virtiofsd")
    with tempfile.TemporaryDirectory(prefix="ringlet-bench-") as name:
        path = Path(name) / "socket"
        command = [found, f"--socket-path={path}", "-o", f"source={directory},cache=auto"]
        with _serving(command) as server:
            _wait_for(server, path.exists)
            yield str(path)


@contextlib.contextmanager
def _nat() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Serve a network; give QEMU's description of it, and the descriptors that QEMU needs."""
    if shutil.which("passt") is None or not user_namespaces():
        yield f"user,id=nat,net={GATEWAY}/{PREFIX},host={GATEWAY},dhcpstart={GUEST}", ()
        return
    ours, engines = socket.socketpair()
    with ours, engines:
        fd = engines.fileno()
        command = ["passt", "--foreground", "--quiet", "--fd", str(fd), "--mtu", str(PASST.mtu),
                   "-a", GUEST, "-n", str(PREFIX), "-g", GATEWAY, "--ipv4-only"]  # fmt: skip
        with _serving(command, fd):
            yield f"stream,id=nat,addr.type=fd,addr.str={ours.fileno()}", (ours.fileno(),)


@contextlib.contextmanager
def _serving(command: list[str], *kept: int) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            _bound(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=kept
        )
        try:
            yield process
        except HostError as error:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines() or ["no reason given"]
            raise HostError(f"{error}: {said[-1]}") from error
        finally:
            process.kill()
            process.wait()


def _bound(command: list[str]) -> list[str]:
    """Return how to run a command that ends with this process, however that ends."""
    setpriv = shutil.which("setpriv")
    return command if setpriv is None else [setpriv, "--pdeathsig=KILL", *command]


def _wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise HostError("what serves the guest does not start on this host")
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
