# Writes 4 KiB here and there, each flushed, for N seconds.
. /bench/files/fio.sh

run() { job each --rw=randwrite --bs=4k --size=100% --fsync=1 --runtime="$N" --time_based; }
