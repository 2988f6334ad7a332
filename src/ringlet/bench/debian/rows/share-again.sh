# git status in a large tree on a share, N times, when it has run before.
. /bench/files/git.sh

prepare() {
    fresh
    status
}

run() {
    i=0
    while [ "$i" -lt "$N" ]; do
        status
        i=$((i + 1))
    done
}
