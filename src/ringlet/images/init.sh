#!/bin/sh
# Process 1 of a guest, until its root file system takes over, if it has one.
#
# /ringlet/settings sets hostname, TERM, rows and columns.  If it sets root too, that is the device or
# the virtio-fs tag of the root file system (ringlet/images/initramfs.py has all settings); without
# it, the initial RAM disk is all there is.
#
# With boot=1 the root's own init takes over.  Otherwise this script goes on: if /ringlet/command
# exists, it sets the positional parameters, and that command runs with its streams on serial ports,
# as ringlet/images/channel.py describes; else a shell runs on the console.  Where there is an agent and
# the kernel knows its port, the host runs the command by the agent instead.  Init reports the exit
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

# Load modules and what they need, which ringlet/images/modules.py has put in order.
load() {
    for wanted; do
        while read -r name needs; do
            [ "$name" = "$wanted" ] || continue
            for module in $needs; do
                [ -d "/sys/module/$module" ] || insmod "/ringlet/modules/$module.ko"
            done
        done </ringlet/modules/order
    done
}

give_up() {
    echo "ringlet: $*" >/dev/console
    echo "failed $*" >&3
    sync
    poweroff -f
    sleep 3600
}

# Modules have been loaded, so what is not there now will not come.
lacks() {
    read -r release <"$new/proc/sys/kernel/osrelease"
    give_up "the kernel has no $1: it must be built in, or be a module in lib/modules/$release beside" \
        "the kernel's file or in the host's /lib/modules; or give --package instead of --kernel"
}

need_driver() {
    [ -d /sys/bus/pci/drivers/virtio-pci ] || lacks "driver virtio_pci"
    [ -d "/sys/bus/virtio/drivers/$1" ] || lacks "driver $1"
}

need_file_system() {
    while read -r left right; do
        [ "${right:-$left}" != "$1" ] || return 0
    done <"$new/proc/filesystems"
    lacks "file system $1"
}

# Say what a file system was wanted for, if the kernel has it.
cannot() {
    need_file_system "$1"
    give_up "the guest cannot $2"
}

# Some devices are found only after their module has been loaded.
wait_for() {
    need_driver virtio_blk
    tries=0
    until [ -b "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || give_up "the guest has no disk $1"
        sleep .1
    done
}

# The root of a disk with partitions is the one with an init.
find_root() {
    wait_for /dev/vda
    for root in /dev/vda[0-9]* /dev/vda; do
        mount -t ext4 -o ro,noload "$root" /lower 2>/dev/null || continue
        for file in sbin/init usr/lib/systemd/systemd; do
            if [ -e "/lower/$file" ] || [ -L "/lower/$file" ]; then
                umount /lower
                return
            fi
        done
        umount /lower
    done
    need_file_system ext4
    give_up "the disk has no root file system of ext4"
}

mount_root() {
    mkdir /new /lower /upper
    lower=/new
    [ "$overlay" != 1 ] || lower=/lower
    case $root in
        auto) find_root ;;
        /dev/*) wait_for "$root" ;;
    esac
    mount ${root_type:+-t "$root_type"} -o "$root_options" "$root" "$lower" ||
        cannot "${root_type:-ext4}" "mount its root, $root"
    if [ "$overlay" = 1 ]; then
        mount -t tmpfs tmpfs /upper
        mkdir /upper/files /upper/work
        mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new ||
            cannot overlay "put an overlay on its root"
    fi
    for directory in dev proc sys run tmp; do
        [ -d "/new/$directory" ] || mkdir "/new/$directory"
    done
    if [ -n "$modules_disk" ]; then
        wait_for "$modules_disk"
        modules=/new/lib/modules
        [ ! -d /new/usr/lib ] || modules=/new/usr/lib/modules
        mkdir -p "$modules" && mount -t ext4 -o ro,noload "$modules_disk" "$modules" ||
            give_up "the guest cannot mount its kernel's modules"
    fi
    # What the host gives lies on the RAM disk of /run, so that none of it stays on the guest's disk.
    [ ! -d /ringlet/run ] || cp -a /ringlet/run/. /run/
}

# Mount the directories that the host shares: each line has the tag, the options and the place.  This
# comes after what else is mounted in the root, which would hide them.  Only within the root do the
# root's symbolic links, such as /var/run, lead where they lead for its programs.
mount_shares() {
    [ -e /ringlet/shares ] || return 0
    within=
    if [ -n "$new" ]; then
        cp /bin/busybox "$new/run/busybox"
        within="chroot $new /run/busybox"
    fi
    while read -r tag options place; do
        $within mkdir -p "$place" && $within mount -t virtiofs -o "$options" "$tag" "$place" ||
            cannot virtiofs "mount a shared directory at $place"
    done </ringlet/shares
    [ -z "$new" ] || rm "$new/run/busybox"
}

# Give the network card the address that DHCP would give it.  An init of the root's own asks itself.
configure_network() {
    ip link set lo up
    [ -n "$address" ] || return 0
    need_driver virtio_net
    for card in /sys/class/net/e*; do
        [ -e "$card" ] || give_up "the guest has no network card"
        card=${card##*/}
        ip link set "$card" mtu "$mtu" up
        ip addr add "$address" dev "$card"
        ip route add default via "$gateway"
        break
    done
    [ ! -L "$new/etc/resolv.conf" ] || rm -f "$new/etc/resolv.conf"
    for server in $dns; do
        echo "nameserver $server"
    done >"$new/etc/resolv.conf"
}

find_port() {
    for port in "$new"/sys/class/virtio-ports/*; do
        read -r name <"$port/name" && [ "$name" = org.ringlet.agent ] && return
    done 2>/dev/null
    return 1
}

# Whether there is an agent, and a port that the kernel has a driver for.
agent_can_start() {
    [ -e /ringlet/agent ] || return 1
    for device in "$new"/sys/bus/virtio/drivers/virtio_console/virtio*; do
        [ ! -e "$device" ] || return 0
    done
    return 1
}

# Start the agent, which serves the host's commands, in the root file system.
start_agent() {
    [ -e /ringlet/agent ] || return 0
    tries=0
    # The device names its ports some time after its driver has been loaded.
    until find_port; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || give_up "the guest has no port for its agent"
        sleep .05
    done
    mkdir -p "$new/run/ringlet"
    cp /ringlet/agent "$new/run/ringlet/agent"
    ${new:+chroot "$new"} /run/ringlet/agent "/dev/${port##*/}" <"$new/dev/null" \
        >"$new/run/ringlet/log" 2>&1 3>&- &
    agent=$!
}

# systemd-networkd gives the card the address that DHCP would give it, and waits for nobody.
tell_networkd() {
    [ -n "$address" ] || return 0
    mkdir -p /run/systemd/network
    {
        printf '[Match]\nName=e*\n\n[Link]\nMTUBytes=%s\nRequiredForOnline=no\n\n' "$mtu"
        printf '[Network]\nAddress=%s\nGateway=%s\nLLMNR=no\nMulticastDNS=no\n' "$address" "$gateway"
        printf 'DNS=%s\n' $dns
    } >/run/systemd/network/70-ringlet.network
}

start_init() {
    tell_networkd
    # systemd would mount each by a program of its own.
    mount -t debugfs debugfs /sys/kernel/debug
    mount -t tracefs tracefs /sys/kernel/tracing
    mkdir /dev/mqueue /dev/hugepages
    mount -t mqueue mqueue /dev/mqueue
    mount -t hugetlbfs hugetlbfs /dev/hugepages
    # Programs that look for modules until the end keep them busy.
    units=/run/systemd/system
    getty=$units/serial-getty@ttyS0.service.d console=$units/console-getty.service.d
    mkdir -p "$units/usr-lib-modules.mount.d" "$getty" "$console"
    printf '[Unit]\nDefaultDependencies=no\n' >"$units/usr-lib-modules.mount.d/busy.conf"
    # Later sizes come by the agent.
    for directory in "$getty" "$console"; do
        [ "$rows" = 0 ] || printf '[Service]\nTTYRows=%s\nTTYColumns=%s\n' "$rows" "$columns" \
            >"$directory/window.conf"
    done
    give_hosts
    for directory in dev proc sys run; do
        mount -o move "/$directory" "/new/$directory"
    done
    mount_shares
    # The shell opens it for a command in the background, and /dev is gone.
    : >/dev/null
    start_agent
    # switch_root wants the new root to have the console.
    exec 3>&-
    cd /new
    exec switch_root -c /dev/console /new "$init"
}

# Images of containers have no names of hosts, not even their own.
give_hosts() {
    [ ! -d /new/etc ] || [ -s /new/etc/hosts ] || cp /etc/hosts /new/etc/hosts
}

# The command's root is the new one, and this script's own stays this.
enter_root() {
    for directory in dev proc sys run tmp; do
        mount -o rbind "/$directory" "/new/$directory"
    done
    give_hosts
    enter="chroot /new"
}

leave_root() {
    for directory in tmp run sys proc dev; do
        umount -l "/new/$directory"
    done
    [ -z "$modules_disk" ] || umount "$modules"
    umount /new || mount -o remount,ro /new
    [ "$overlay" != 1 ] || umount /lower
}

enter=
new=
load $modules
if [ -n "$root" ]; then
    mount_root
    new=/new
fi
[ "$boot" != 1 ] || start_init
[ -z "$root" ] || enter_root
mount_shares
configure_network

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
        exec setsid -- $enter "$@"
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
    setsid sh -c 'exec </dev/ttyS0 >/dev/ttyS0 2>&1; exec '"$enter"' sh -l' 3>&-
    status=$?
    # The last close of a port waits until everything is sent.
    kill "$follower" 2>/dev/null
    wait "$follower"
    # This changes nothing, but it waits until everything is sent.
    stty sane </dev/ttyS0
}

# Nothing but what the host asks of the agent.
run_agent() {
    start_agent
    wait "$agent"
    status=$?
}

case $task in
    command)
        if agent_can_start; then
            echo agent >&3
            run_agent
        else
            run_command
        fi
        ;;
    shell)
        start_agent
        run_shell
        ;;
    serve) run_agent ;;
esac
[ -z "$root" ] || leave_root
echo "exit $status" >&3
exec 3>&-
sync
poweroff -f
# Without power-off nothing is left to do, but process 1 must not end.
while :; do
    sleep 3600
done
