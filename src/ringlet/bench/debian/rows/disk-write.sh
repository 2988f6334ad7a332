# Writes N MiB in order; at the end they are flushed.
. /bench/files/fio.sh

run() { job bytes --rw=write --bs=1M --size="${N}M" --end_fsync=1; }
