# Writes N MiB in order, reads them back and compares.
. /bench/files/fio.sh

run() { verify --rw=write --bs=1M --size="${N}M"; }
