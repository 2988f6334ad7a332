# N short processes, one after another.
prepare() { :; }

run() {
    i=0
    while [ "$i" -lt "$N" ]; do
        /bin/true
        i=$((i + 1))
    done
    echo "$i"
}
