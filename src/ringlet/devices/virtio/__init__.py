"""virtio 1.2 over PCI: queues, the transport, and one device a file."""
