# CPython's own tests of re, N times.
. /bench/files/python.sh

prepare() { :; }

run() { tests test_re; }
