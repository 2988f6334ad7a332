# N searches of the tree's /usr by name, type and size.
prepare() { :; }

run() {
    i=0
    while [ "$i" -lt "$N" ]; do
        find /usr -type f -name '*.p[lm]' -size +1k | sort | cksum
        find /usr -xdev ! -type l -perm -u+x -newermt 1960-01-01 -printf '%m %P\n' | sort | cksum
        i=$((i + 1))
    done
}
