# SHA-256 of blocks of 16 KiB in N seconds; then of known text.
. /bench/files/openssl.sh

prepare() { seq 100000 >text; }

run() {
    speed -bytes 16384 -evp sha256
    openssl dgst -sha256 text
}
