# Reads 4 KiB here and there, 32 at once, for N seconds.
. /bench/files/fio.sh

run() {
    job each --rw=randread --bs=4k --size=100% --runtime="$N" --time_based \
        --ioengine=libaio --iodepth=32
}
