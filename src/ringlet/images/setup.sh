#!/bin/sh
# Runs once, as root in a guest whose root is the new Debian: the scripts of its packages, which are
# unpacked.  Status 0 says that the image is ready.

set -e
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C HOME=/root
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DPKG_MAINTSCRIPT_ARCH=amd64 DPKG_ROOT= DPKG_ADMINDIR=/var/lib/dpkg
export DPKG_RUNNING_VERSION=1.21

ldconfig
for script in /var/lib/dpkg/info/*.preinst; do
    package=${script##*/}
    package=${package%.preinst}
    DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=${package%:*} \
        DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 "$script" install </dev/null
done
dpkg --force-confold --configure -a </dev/null
[ -z "$(dpkg --audit)" ]

passwd --delete root
systemctl enable systemd-networkd.service systemd-resolved.service console-getty.service
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
: >/etc/machine-id
rm -f /usr/sbin/policy-rc.d /ringlet-setup /var/log/*.log /var/lib/dpkg/*-old /var/cache/debconf/*-old \
    /var/lib/systemd/random-seed
