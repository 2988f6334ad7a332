# A function for rows that start a server.

# Repeat a command until it succeeds, for at most 60 s.
until_done() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 600 ]; then
            tail -n 1 log >&2
            return 1
        fi
        sleep 0.1
    done
}
