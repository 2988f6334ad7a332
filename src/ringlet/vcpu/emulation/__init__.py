"""One emulated instruction at a time, by families; `ringlet.vcpu.emulator` is the way in."""
