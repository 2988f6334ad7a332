# N thousand blocks of 4 KiB, from a device to a file and through a pipe.
prepare() { :; }

run() {
    dd if=/dev/zero of=file bs=4k count=$((N * 500)) status=none
    dd if=file bs=4k status=none | dd of=copy bs=4k iflag=fullblock status=none
    cmp file copy
    stat -c %s copy
}
