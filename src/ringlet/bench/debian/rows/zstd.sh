# Compress and decompress N MiB of text with zstd.
prepare() { sh /bench/files/text.sh "$N" >text; }

run() {
    zstd -q -9 --single-thread -c text >text.zst
    zstd -q -dc text.zst | cmp - text
    cksum <text.zst
}
