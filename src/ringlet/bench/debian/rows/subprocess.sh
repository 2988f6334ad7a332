# CPython's own tests of subprocess, N times: one class of them, without those that mostly sleep.
. /bench/files/python.sh

prepare() { :; }

run() {
    tests test_subprocess -m '*.ProcessTestCase.*' -i '*timeout*' -i '*wait*' -i '*kill*' \
        -i '*send_signal*' -i '*terminate*' -i '*user*' -i '*group*'
}
