"""Where devices' data goes on the host, and where it comes from."""
