# Writes N MiB in blocks of 4 KiB here and there, reads them back and compares.
. /bench/files/fio.sh

run() { verify --rw=randwrite --bs=4k --size="${N}M"; }
