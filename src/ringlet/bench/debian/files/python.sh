# A function for rows that run CPython's tests.

tests() {
    i=0
    while [ "$i" -lt "$N" ]; do
        python3 -m test "$@" >report 2>&1 || {
            tail -n 3 report
            return 1
        }
        grep '^== Tests result: SUCCESS ==$' report
        i=$((i + 1))
    done
}
