# Functions for rows that run iperf3 with a server on the host.
. /bench/files/devices.sh

prepare() {
    if guest && ! busybox ip route | grep -q default; then
        load virtio_pci
        load virtio_net
        await /sys/class/net/eth0
        busybox ip address add 10.0.2.15/24 dev eth0
        # As large as the engine takes them, which DHCP would tell.
        busybox ip link set eth0 mtu 65520 2>/dev/null || :
        busybox ip link set eth0 up
        busybox ip route add default via 10.0.2.2
    fi
}

# Write the received bits and the seconds to the file "rate".
iperf() {
    iperf3 -c 10.0.2.2 -p "$PORT" -t "$N" -J "$@" >report || {
        grep '"error"' report >&2
        return 1
    }
    awk '
        /"sum_received"/ { inside = 1 }
        inside && /"seconds"/ { gsub(/[^0-9.]/, ""); seconds = $0 }
        inside && /"bytes"/ { gsub(/[^0-9]/, ""); bytes = $0; inside = 0 }
        END { printf "%.0f %.6f\n", bytes * 8, seconds }' report >rate
}
