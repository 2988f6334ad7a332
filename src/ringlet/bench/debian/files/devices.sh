# Functions for rows that use the devices of a guest, natively and there.

guest() { [ "$WORLD" = guest ]; }

# Load a module of the guest's kernel and what it needs, unless the kernel has it.
load() {
    guest && [ -e /ringlet/modules/order ] || return 0
    grep "^$1 " /ringlet/modules/order | sed "s/^[^ ]* //" | tr " " "\n" >needs
    while read -r module; do
        [ -d "/sys/module/$module" ] || busybox insmod "/ringlet/modules/$module.ko"
    done <needs
}

# Wait until a file is there.
await() {
    tries=0
    until [ -e "$1" ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 100 ]; then
            echo "there is no $1" >&2
            return 1
        fi
        sleep 0.1
    done
}

# Set `disk` to the guest's disk, natively to the file that is its image.
find_disk() {
    disk=/mnt/disk.img
    if guest; then
        disk=/dev/vda
        load virtio_pci
        load virtio_blk
    fi
    await "$disk"
}

# Mount the shared directory at /mnt anew: nothing of it is in the guest's caches.
mount_share() {
    guest || return 0
    load virtio_pci
    load virtiofs
    mkdir -p /mnt
    busybox umount /mnt 2>/dev/null || :
    busybox mount -t virtiofs ringlet-0 /mnt
}
