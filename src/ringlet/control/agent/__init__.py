"""Commands and files in a guest, by the agent that runs there."""

from ringlet.control.agent.agent import Agent, GuestInfo
from ringlet.control.agent.command import Result
from ringlet.control.agent.files import FileInfo, Files
from ringlet.control.agent.process import Process

__all__ = ["Agent", "FileInfo", "Files", "GuestInfo", "Process", "Result"]
