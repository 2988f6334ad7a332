# gcc -O2 compiles a file of N functions.
prepare() { sh /bench/files/functions.sh "$N" >functions.c; }

run() {
    gcc -O2 -S -o functions.s functions.c
    cksum <functions.s
}
