# CPython's own tests of json, N times.
. /bench/files/python.sh

prepare() { :; }

run() { tests test_json; }
