# Compress and decompress N MiB of text with xz.
prepare() { sh /bench/files/text.sh "$N" >text; }

run() {
    xz -T 1 -6 -c text >text.xz
    xz -dc text.xz | cmp - text
    cksum <text.xz
}
