"""What to give in place of commands, and of their options, that Docker and others have."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ringlet.cli.elsewhere import CONFINED, PLATFORM
from ringlet.errors import ConfigError

_AFTER_RUN: Final = "it belongs to a command; give it after ringlet run"
_A_LINE_EACH: Final = "each image is a line, with its name first; give that to awk or grep"
_DOCKERFILE: Final = "no Dockerfile is built; give ringlet image import what docker save wrote"
_GLOBAL: Final = "there is no such setting; give ringlet run --verbose for the kernel's messages"
_HERE: Final = "machines run on this host, and no daemon serves them; leave it out"
_IN_IMAGES: Final = "images are not made of containers; "
_JSON: Final = "give --json, and read that with jq or another program"
_LEFT_BEHIND: Final = "give sh -c 'COMMAND >/tmp/log 2>&1 &' as the command"
_NO_TIMES: Final = "the log has no times; give --tail N for its last lines"
_SAYS_LITTLE: Final = "little is printed when it is no terminal; leave it out"
_SWARM: Final = "machines run on one host; give ringlet run -d --name NAME GUEST"

OTHER_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "": {
        "-D": _GLOBAL,
        "--debug": _GLOBAL,
        "-H": _HERE,
        "--host": _HERE,
        "-c": _HERE,
        "--context": _HERE,
        "--config": _GLOBAL,
        "-l": _GLOBAL,
        "--log-level": _GLOBAL,
        "-d": _AFTER_RUN,
        "-i": _AFTER_RUN,
        "-t": _AFTER_RUN,
        "-v": "give ringlet --version, or ringlet run -v HOST:GUEST to share a directory",
        "-p": _AFTER_RUN,
        "-e": _AFTER_RUN,
        "-m": _AFTER_RUN,
        "--rm": _AFTER_RUN,
        "--name": _AFTER_RUN,
        "--kernel": _AFTER_RUN,
    },
    "exec": {
        "-d": _LEFT_BEHIND,
        "--detach": _LEFT_BEHIND,
        "--detach-keys": "Ctrl-A x leaves a command; leave it out",
        "--env-file": "give each variable with -e NAME=VALUE",
        "--privileged": CONFINED,
    },
    "logs": {
        "--details": "give ringlet ps -a --json for what is known of a machine",
        "--since": _NO_TIMES,
        "--timestamps": _NO_TIMES,
        "-t": _NO_TIMES,
        "--until": _NO_TIMES,
    },
    "ps": {
        "-f": _JSON,
        "--filter": _JSON,
        "--format": _JSON,
        "-l": _JSON,
        "--last": _JSON,
        "--latest": _JSON,
        "-n": _JSON,
        "--no-trunc": _JSON,
        "-s": "give ringlet exec NAME df for what its file systems hold",
        "--size": "give ringlet exec NAME df for what its file systems hold",
    },
    "cp": {
        "-a": "modes, times and links are always kept; leave it out",
        "--archive": "modes, times and links are always kept; leave it out",
        "-L": "name the file that the link leads to",
        "--follow-link": "name the file that the link leads to",
        "-q": "nothing is printed; leave it out",
        "--quiet": "nothing is printed; leave it out",
        "-r": "directories are copied with all that is in them; leave it out",
    },
    "stop": {
        "-s": "give ringlet kill NAME to cut the power",
        "--signal": "give ringlet kill NAME to cut the power",
    },
    "kill": {
        "-s": "it cuts the machine's power; for a process give ringlet exec NAME kill",
        "--signal": "it cuts the machine's power; for a process give ringlet exec NAME kill",
    },
    "rm": {
        "-l": "machines have no links; leave it out",
        "--link": "machines have no links; leave it out",
        "-v": "a machine has no volumes; leave it out",
        "--volumes": "a machine has no volumes; leave it out",
    },
    "image build": {
        "--build-arg": _DOCKERFILE,
        "-f": _DOCKERFILE,
        "--file": _DOCKERFILE,
        "--no-cache": "it is built anew anyway; leave it out",
        "--platform": PLATFORM,
        "--pull": "it is built anew anyway; leave it out",
        "-q": _SAYS_LITTLE,
        "--quiet": _SAYS_LITTLE,
        "-t": _DOCKERFILE,
        "--tag": _DOCKERFILE,
    },
    "image import": {
        "-c": "give what it sets to ringlet run, such as -e NAME=VALUE or -w DIR",
        "--change": "give what it sets to ringlet run, such as -e NAME=VALUE or -w DIR",
        "-m": "an image has no message; leave it out",
        "--message": "an image has no message; leave it out",
        "--platform": PLATFORM,
    },
    "image ls": {
        "-a": "all are listed; leave it out",
        "--all": "all are listed; leave it out",
        "--digests": _A_LINE_EACH,
        "-f": _A_LINE_EACH,
        "--filter": _A_LINE_EACH,
        "--format": _A_LINE_EACH,
        "--no-trunc": "nothing is cut; leave it out",
        "-q": _A_LINE_EACH,
        "--quiet": _A_LINE_EACH,
    },
    "image pull": {
        "-a": "give each tag, as in docker://NAME:TAG",
        "--all-tags": "give each tag, as in docker://NAME:TAG",
        "--platform": PLATFORM,
        "-q": _SAYS_LITTLE,
        "--quiet": _SAYS_LITTLE,
    },
    "image rm": {
        "-f": "stop the machine that uses the image; leave it out",
        "--force": "stop the machine that uses the image; leave it out",
        "--no-prune": "leave it out",
    },
    "cache prune": {
        "-f": "nothing is asked; leave it out",
        "--filter": "give -n to see what would be removed",
        "--force": "nothing is asked; leave it out",
        "--volumes": "a volume is a directory of the host; leave it out",
    },
}
"""Options of Docker, of itself and for its other commands, and what to give instead."""

COMMANDS: Final[Mapping[str, Mapping[str, str]]] = {
    "": {
        "attach": "give ringlet logs -f NAME to see its console, or ringlet shell NAME",
        "build": "give ringlet image build, pull or import",
        "builder": "give ringlet cache prune",
        "buildx": _DOCKERFILE,
        "checkpoint": "snapshots are not supported yet",
        "commit": _IN_IMAGES + "give ringlet run --disk FILE, whose changes stay",
        "compose": "start each with ringlet run -d --name NAME, or by the Python interface",
        "config": "there is no file of settings; give options to ringlet run",
        "console": "give ringlet logs -f NAME to see its console, or ringlet shell NAME",
        "container": "leave the word out, as in ringlet ps",
        "context": _HERE,
        "create": "give ringlet run -d --name NAME GUEST",
        "delete": "give ringlet rm -f NAME",
        "destroy": "give ringlet rm -f NAME",
        "diff": "give ringlet exec NAME, and compare there",
        "events": "give ringlet ps -a --json",
        "export": "give ringlet cp NAME:/PATH DIRECTORY",
        "help": "give ringlet --help, or ringlet COMMAND --help",
        "history": "give ringlet image ls",
        "images": "give ringlet image ls",
        "import": "give ringlet image import",
        "info": "give ringlet doctor, or ringlet cache ls",
        "inspect": "give ringlet ps -a --json",
        "launch": "give ringlet run -d --name NAME GUEST",
        "list": "give ringlet ps -a for machines, ringlet image ls for images, or ringlet cache ls",
        "load": "give ringlet image import FILE",
        "login": "a registry that wants one: fetch with skopeo to a directory, and give oci:DIR",
        "logout": "no registry's password is kept",
        "ls": "give ringlet ps -a for machines, ringlet image ls for images, or ringlet cache ls",
        "manifest": "give ringlet image pull docker://NAME, which takes the one for x86-64",
        "network": "a network is made by run: give ringlet run --net user or tap:NAME",
        "pause": "use the Python interface, ringlet.Machine",
        "plugin": "there are none; give ringlet --help for all commands",
        "port": "give ringlet ps, which lists the ports",
        "prune": "give ringlet cache prune, or ringlet rm NAME",
        "pull": "give ringlet image pull",
        "push": "images are only fetched; give skopeo or docker the image's source",
        "remove": "give ringlet rm NAME, or ringlet image rm NAME",
        "rename": "a name stays; give ringlet run --name NAME",
        "restart": "give ringlet rm -f NAME, and ringlet run -d --name NAME GUEST",
        "resume": "use the Python interface, ringlet.Machine",
        "rmi": "give ringlet image rm",
        "save": "give others what the image was made of, which ringlet image import takes",
        "search": "give ringlet image pull docker://NAME",
        "service": _SWARM,
        "ssh": "give ringlet shell NAME",
        "stack": _SWARM,
        "start": "a machine runs once; give ringlet run -d --name NAME GUEST",
        "stats": "give ringlet exec NAME top -b -n 1, or ringlet run --stats",
        "status": "give ringlet ps -a",
        "suspend": "use the Python interface, ringlet.Machine",
        "swarm": _SWARM,
        "system": "give ringlet cache ls or ringlet cache prune",
        "tag": "give ringlet image import SOURCE --name NAME",
        "top": "give ringlet exec NAME ps",
        "unpause": "use the Python interface, ringlet.Machine",
        "update": "a machine keeps its size; give ringlet run --memory SIZE",
        "version": "give ringlet --version",
        "volume": "a volume is a directory of the host; give ringlet run -v HOST:GUEST",
        "wait": "give ringlet logs -f NAME, which ends with the machine",
    },
    "image": {
        "delete": "give ringlet image rm",
        "history": "give ringlet image ls",
        "inspect": "give ringlet image ls",
        "list": "give ringlet image ls",
        "load": "give ringlet image import FILE",
        "prune": "give ringlet image rm NAME, or ringlet cache prune",
        "push": "images are only fetched; give skopeo or docker the image's source",
        "remove": "give ringlet image rm",
        "save": "give others what the image was made of, which ringlet image import takes",
        "search": "give ringlet image pull docker://NAME",
        "tag": "give ringlet image import SOURCE --name NAME",
    },
    "cache": {
        "clean": "give ringlet cache prune",
        "clear": "give ringlet cache prune --all",
        "df": "give ringlet cache ls",
        "list": "give ringlet cache ls",
        "purge": "give ringlet cache prune --all",
        "rm": "give ringlet cache prune, or ringlet image rm NAME",
    },
}
"""Commands that are reserved, or that others have, below each group of commands."""


def require_own_options(
    command: str, arguments: Sequence[str], own: Mapping[str, bool], *, ends: bool = False
) -> None:
    """Raise ConfigError for an option of Docker's `command` that Ringlet's has not.

    `own` has Ringlet's options, and whether each takes a value.  With `ends`, options end at the
    first other word.
    """
    others = OTHER_OPTIONS.get(command, {})
    skip = False
    for argument in arguments:
        if skip:
            skip = False
            continue
        if argument == "--" or (ends and not argument.startswith("-")):
            return
        for name, has_value in named_in(argument, own):
            if name not in own and name in others:
                raise ConfigError(f"{name}: {others[name]}")
            skip = own.get(name, False) and not has_value


def named_in(argument: str, own: Mapping[str, bool]) -> Iterator[tuple[str, bool]]:
    """Yield the options in `argument`, and whether a value follows in it; -it has two."""
    if argument.startswith("--"):
        name, equals, _ = argument.partition("=")
        yield name, bool(equals)
    elif argument.startswith("-"):
        for place, letter in enumerate(argument[1:], 2):
            yield f"-{letter}", place < len(argument)
            if own.get(f"-{letter}", False):
                return
