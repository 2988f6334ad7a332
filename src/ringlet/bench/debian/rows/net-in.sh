# Receives from a server on the host for N seconds.
. /bench/files/iperf.sh

run() { iperf -R; }
