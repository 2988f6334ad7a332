"""Waits until a guest that takes commands has also booted, and has its network."""

from typing import Final

from ringlet.control.agent.agent import Agent

# The agent runs before the root's own init does, and systemd for a while before it answers.
_BOOTED: Final = (
    "until [ /proc/1/root -ef / ]; do sleep .05; done; "
    "command -v systemctl >/dev/null || exit 0; "
    "until systemctl is-system-running --wait 2>/dev/null | "
    "grep -Eqx 'running|degraded|maintenance'; do sleep .1; done"
)
# Only the default route's line has this destination and a gateway.
_ROUTED: Final = (
    "i=0; until grep -Eq '^[^ \t]+\t00000000\t' /proc/net/route || [ $i = 100 ]; "
    "do i=$((i + 1)); sleep .1; done"
)


def wait_until_booted(agent: Agent, timeout: float | None, *, networked: bool) -> None:
    """Return when the services of a guest that boots have started or failed, whatever init it has.

    A guest that is `networked` has a route then, unless that takes more than ten seconds.  Raises
    AgentTimeoutError, CommandTimeoutError after `timeout` seconds, and AgentError.
    """
    agent.wait_ready(timeout)
    for script in (_BOOTED, _ROUTED) if networked else (_BOOTED,):
        agent.run(script, timeout=timeout, on_stdout=_dropped, on_stderr=_dropped)


def _dropped(data: bytes) -> None:
    """Keep nothing of what a guest prints."""
