# Functions for rows that run git in the shared directory.
. /bench/files/devices.sh

# The files belong to whoever runs the benchmark; the cache must not depend on the engine.
status() { git -C /mnt/sources -c safe.directory='*' status --short; }

# Git's index has what stat says of each file.  It is brought up to date, then all is forgotten.
fresh() {
    mount_share
    status
    mount_share
}
