# make builds Ringlet's own benchmark programs on a share, N times.
. /bench/files/devices.sh

prepare() {
    mount_share
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
    cksum cpu.exe linux.exe driver.exe
}
