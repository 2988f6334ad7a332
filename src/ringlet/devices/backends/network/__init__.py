"""The host's side of a guest's network: user-mode NAT by passt or libslirp, or a tap."""
