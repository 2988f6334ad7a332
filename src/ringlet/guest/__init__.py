"""What runs inside a guest: the agent, a static program, and the protocol that it speaks.

The C files here are the agent (main.c says how it is called); docs/agent.md describes the protocol.
"""

from pathlib import Path
from typing import Final

PROGRAM: Final = Path(__file__).parent / "agent"
"""The agent for x86-64 guests, a static ELF program; a guest's root file system gets a copy."""

PORT: Final = "org.ringlet.agent"
"""The name of the virtio-console port on which the host waits for the agent."""


def agent_program() -> bytes:
    """Return the contents of `PROGRAM`."""
    return PROGRAM.read_bytes()
