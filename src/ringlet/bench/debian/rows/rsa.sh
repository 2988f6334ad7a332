# RSA-2048 signatures in N seconds; then one of a message, which must be right.
. /bench/files/openssl.sh

prepare() { openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key; }

run() { speed rsa2048; sign; }
