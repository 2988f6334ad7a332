# P-256 signatures in N seconds; then one of a message, which must be right.
. /bench/files/openssl.sh

prepare() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key; }

run() { speed ecdsap256; sign; }
