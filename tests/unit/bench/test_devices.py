"""The options by which each engine gets the same devices."""

from pathlib import Path

from ringlet.bench.devices import DISK, Devices, forget_cached, with_devices

HERE = Path("/tmp/a,b")


def test_no_devices_change_nothing() -> None:
    for engine in ("native", "ringlet", "qemu", "kvm"):
        assert with_devices(engine, ["command"], Devices(), 512) == ["command"]


def test_ringlet_has_them_as_options_of_run() -> None:
    devices = Devices(HERE, disk=True, shared=True, port=40000)

    command = with_devices("ringlet", ["ringlet"], devices, 512)

    assert command == [
        "ringlet", "--disk", "/tmp/a,,b/disk.img,format=raw", "-v", "/tmp/a,b:/mnt",
        "--net", "user,host-loopback",
    ]  # fmt: skip


def test_qemus_disk_is_the_same_file_with_the_hosts_cache() -> None:
    command = with_devices("qemu", ["qemu"], Devices(HERE, disk=True), 512)

    drive = "file=/tmp/a,,b/disk.img,if=none,id=disk,format=raw,cache=writeback"
    assert command == ["qemu", "-drive", drive, "-device", "virtio-blk-pci,drive=disk"]


def test_qemus_share_and_network_are_served_beside_it() -> None:
    devices = Devices(HERE, shared=True, port=40000)

    command = with_devices("qemu", ["qemu"], devices, 512)

    first, second = command.index("ringlet.bench.beside") + 1, command.index("--")
    assert command[first:second] == ["virtiofsd", "/tmp/a,b", "nat"]
    assert "memory-backend-memfd,id=ram,size=512M,share=on" in command
    assert "vhost-user-fs-pci,chardev=fs,tag=ringlet-0" in command
    assert command[-4:] == ["-netdev", "{nat}", "-device", "virtio-net-pci,netdev=nat"]


def test_the_native_network_is_that_of_pasta() -> None:
    command = with_devices("native", ["driver"], Devices(HERE, port=40000), 0)

    begin = command.index("pasta")
    assert command[begin:] == [
        "pasta", "-a", "10.0.2.15", "-n", "24", "-g", "10.0.2.2", "--", "driver",
    ]  # fmt: skip


def test_a_file_that_is_dropped_from_the_cache_keeps_its_data(tmp_path: Path) -> None:
    image = tmp_path / DISK
    image.write_bytes(b"x" * 8192)

    forget_cached(image)

    assert image.read_bytes() == b"x" * 8192
