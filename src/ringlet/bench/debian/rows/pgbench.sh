# pgbench's transactions for N seconds by 4 connections, on a database in memory.
. /bench/files/server.sh

PATH=/usr/lib/postgresql/15/bin:$PATH

# PostgreSQL refuses to run as root.  Natively root is the only user of a namespace.
as_user() {
    if [ "$WORLD" = guest ]; then
        setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
    else
        unshare --user --map-user=65534 --map-group=65534 "$@"
    fi
}

serve() {
    as_user postgres -D data -k "$PWD" -h "" -c jit=off >log 2>&1 &
    until_done query "SELECT 1"
}

query() { as_user psql -h "$PWD" -U nobody -d postgres -A -t -c "$1"; }

prepare() {
    mkdir data
    if [ "$WORLD" = guest ]; then
        chown 65534:65534 . data
    fi
    as_user initdb -D data -U nobody --locale=C --encoding=UTF8 -A trust >log 2>&1
    serve
    as_user pgbench -h "$PWD" -U nobody -i -q -s 1 postgres 2>load
    as_user pg_ctl -D data -m fast stop >stop
}

run() {
    serve
    as_user pgbench -h "$PWD" -U nobody -n -c 4 -T "$N" postgres >report 2>errors
    awk '/transactions actually processed/ { n = $NF } /^tps/ { printf "%.0f %.6f\n", n, n / $3 }' report >rate
    # The balances are the sum of all changes, and each transaction has left its line.
    query "SELECT CASE WHEN (SELECT sum(abalance) FROM pgbench_accounts)
        = (SELECT sum(delta) FROM pgbench_history)
        AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)
        AND (SELECT count(*) FROM pgbench_history) = $(cut -d " " -f 1 rate)
        THEN 'right' ELSE 'wrong' END"
    as_user pg_ctl -D data -m fast stop >stop
    wait
}
