# A function for rows that run fio on the disk.
. /bench/files/devices.sh

prepare() { find_disk; }

# Run a job and write a number of units (reads, writes, or KiB with "bytes") and the seconds to the
# file "rate".  The fields are those of fio's terse format, version 3.
job() {
    find_disk
    counted=$1
    shift
    fio --name=job --filename="$disk" --direct=1 --output-format=terse --terse-version=3 "$@" >report
    awk -F ";" -v counted="$counted" '
        $1 == 3 && $5 == 0 {
            kib = $6 + $47
            seconds = ($9 + $50) / 1000
            printf "%.0f %.3f\n", counted == "bytes" ? kib * 1024 : kib / 4, seconds
        }' report >rate
    [ -s rate ]
}

# Write data with checksums to the disk, read it back and compare.
verify() {
    find_disk
    fio --name=job --filename="$disk" --direct=1 --verify=crc32c --do_verify=1 \
        --verify_fatal=1 --output-format=terse --terse-version=3 "$@" >report 2>errors || {
        head -n 1 errors
        return 1
    }
    awk -F ";" '$1 == 3 { print (!$5 && $6 && $47) ? "right" : "error " $5 }' report
}
