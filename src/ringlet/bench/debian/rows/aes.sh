# AES-128-GCM of blocks of 16 KiB in N seconds; then CTR mode, which GCM is made of, of known text.
. /bench/files/openssl.sh

prepare() { seq 100000 >text; }

run() {
    speed -bytes 16384 -evp aes-128-gcm
    openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 0 -in text 2>err | cksum
}
