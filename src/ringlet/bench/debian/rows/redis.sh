# redis-benchmark sends 2 N requests to a redis server, from 20 connections.
. /bench/files/server.sh

prepare() { :; }

run() {
    redis-server --save "" --appendonly no --bind 127.0.0.1 --port 6379 --dir . >log &
    until_done redis-cli ping
    redis-benchmark -n "$N" -c 20 -d 100 -t incr,lpush --csv >report
    awk -F '"' '
        $4 + 0 > 0 { n += ENVIRON["N"]; seconds += ENVIRON["N"] / $4 }
        END { printf "%.0f %.6f\n", n, seconds }' report >rate
    [ "$(redis-cli get counter:__rand_int__)" = "$N" ] && [ "$(redis-cli llen mylist)" = "$N" ]
    # The processor time of a server counts when it has ended.
    redis-cli shutdown nosave
    wait
    echo right
}
