#!/bin/sh
# Process 1 of a guest whose only disk is its initial RAM disk.
#
# /ringlet/settings sets hostname, TERM, rows and columns.  If /ringlet/command exists, it sets the
# positional parameters, and that command runs with its streams on serial ports, as
# ringlet/images/channel.py describes; otherwise a shell runs on the console.  Init reports the exit
# status of either on /dev/ttyS3, if that port exists, and powers the machine off.

export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM

# Make a port pass every byte unchanged, with flow control.
raw() {
    stty raw -echo -iexten clocal crtscts
}

mount -t devtmpfs devtmpfs /dev
# The device file exists even without the port, and then stty fails.
exec 3<>/dev/ttyS3
raw <&3 2>/dev/null || exec 3<>/dev/null
echo init >&3

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp

. /ringlet/settings
hostname "$hostname"
cd /root

# Turn frames into a stream.  A frame is a length in decimal, a newline and that many bytes; length 0
# is the end.  Init requests each frame, because the terminal drops input beyond 64 KiB.
feed() {
    while echo next >&3 && read -r size && [ "$size" -gt 0 ]; do
        dd bs="$size" count=1 iflag=fullblock || return
    done 2>/dev/null
}

# Processes that the command has left running would keep its output open forever.
kill_all_but() {
    for process in /proc/[0-9]*; do
        process=${process#/proc/}
        case " 1 $* " in
            *" $process "*) ;;
            *) kill -9 "$process" 2>/dev/null ;;
        esac
    done
}

run_command() {
    exec 4<>/dev/ttyS1 5<>/dev/ttyS2
    raw <&4
    raw <&5
    # Input that comes before the port is raw would be echoed.
    echo ready >&3
    mkfifo /run/stdin /run/stdout /run/stderr
    feed <&4 >/run/stdin &
    cat /run/stdout >&4 &
    out=$!
    cat /run/stderr >&5 &
    err=$!
    (
        exec 3>&- 4>&- 5>&-
        . /ringlet/command
        exec setsid -- "$@"
    ) </run/stdin >/run/stdout 2>/run/stderr
    status=$?
    kill_all_but "$out" "$err"
    wait "$out" "$err"
    # The last close of a port waits until everything is sent.
    exec 4>&- 5>&-
}

# The kernel sends SIGWINCH to the foreground processes when the size changes.
follow_window() {
    while read -r word rows columns; do
        [ "$word" = size ] && stty rows "$rows" cols "$columns" </dev/ttyS0
    done
}

run_shell() {
    stty sane rows "$rows" cols "$columns" </dev/ttyS0
    follow_window <&3 &
    follower=$!
    # A session leader gets the first terminal that it opens, and with it job control.
    setsid sh -c 'exec </dev/ttyS0 >/dev/ttyS0 2>&1; exec sh -l' 3>&-
    status=$?
    # The last close of a port waits until everything is sent.
    kill "$follower" 2>/dev/null
    wait "$follower"
    # This changes nothing, but it waits until everything is sent.
    stty sane </dev/ttyS0
}

if [ -e /ringlet/command ]; then
    run_command
else
    run_shell
fi
echo "exit $status" >&3
exec 3>&-
sync
poweroff -f
# Without power-off nothing is left to do, but process 1 must not end.
while :; do
    sleep 3600
done
