"""Run Debian's kernel with an initrd and direct execution."""
import sys, time
from ringlet.direct.zygote import Zygote
from ringlet.vcpu import processor
import ringlet.machine.engine as engine
zygote = Zygote()
real = engine.Engine.__call__
def call(self, memory):
    cpu = real(self, memory)
    cpu.execute_directly(lambda files: zygote.make(files, cpuid_faults=True), int(__import__("os").environ.get("DIRECT", "16")), always=bool(__import__("os").environ.get("ALWAYS")), cpuid=False)
    return cpu
if __import__("os").environ.get("DIRECT") != "0":
    engine.Engine.__call__ = call
from ringlet.cli.main import command
sys.argv[1:] = sys.argv[1:]
sys.exit(command())
