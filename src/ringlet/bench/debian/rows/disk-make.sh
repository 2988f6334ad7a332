# make builds Ringlet's own benchmark programs on a disk, N times; the results are flushed.
. /bench/files/devices.sh

prepare() {
    find_disk
    if guest; then
        load ext4
        mkfs.ext4 -q -F "$disk"
        mkdir -p /mnt
        busybox mount -t ext4 "$disk" /mnt
    fi
    rm -rf /mnt/make
    cp -r /bench/files/project /mnt/make
    cp /bench/files/project.mk /mnt/make
}

run() {
    cd /mnt/make
    i=0
    while [ "$i" -lt "$N" ]; do
        make -s -f project.mk clean all
        i=$((i + 1))
    done
    sync cpu.exe linux.exe driver.exe
    cksum cpu.exe linux.exe driver.exe
}
