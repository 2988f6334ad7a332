# N rounds of a script of small commands.
prepare() { :; }

run() {
    i=0
    while [ "$i" -lt "$N" ]; do
        mkdir "d$i"
        seq 1 200 | sed 's/7/seven/g' | awk '{ n += length($0) } END { print n }' >"d$i/count"
        printf '%s\n' pear fig apple plum fig | sort | uniq -c | head -n 3 >"d$i/fruit"
        cp "d$i/fruit" "d$i/copy"
        if grep -q fig "d$i/copy" && [ "$(cut -c 1-7 "d$i/count")" -gt 0 ]; then
            expr "$(wc -c <"d$i/copy")" + "$i" >"d$i/sum"
        fi
        mv "d$i/sum" "d$i/total"
        cat "d$i/total" "d$i/count" "d$i/fruit" | tr a-z A-Z | cksum
        rm -r "d$i"
        i=$((i + 1))
    done
}
