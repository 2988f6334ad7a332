# wrk asks nginx for a page of 4 KiB for N seconds, by 20 connections.
. /bench/files/server.sh

prepare() {
    mkdir www
    seq 1 1000 | head -c 4096 >www/page.txt
    cp /bench/files/nginx.conf .
}

page() { busybox wget -q -O - http://127.0.0.1:8080/page.txt; }

run() {
    nginx -p "$PWD/" -e stderr -c nginx.conf 2>log &
    until_done page
    wrk -t 1 -c 20 -d "${N}s" http://127.0.0.1:8080/page.txt >report
    awk '/ requests in / { sub(/s,/, "", $4); print $1, $4 }' report >rate
    [ "$(page | cksum)" = "$(cksum <www/page.txt)" ]
    # wrk has such a line only if there was such an answer.
    grep -E 'Non-2xx|Socket errors' report || echo right
    nginx -p "$PWD/" -e stderr -c nginx.conf -s quit
    wait
}
