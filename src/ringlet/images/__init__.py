"""What a guest is made of, from where it is published: kernels, tools, initial RAM disks."""
