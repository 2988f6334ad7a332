# Reads N MiB in order.
. /bench/files/fio.sh

run() { job bytes --rw=read --bs=1M --size="${N}M"; }
