#!/bin/sh
# mmdebstrap --extract-hook: writes what each extracted package was to /var/lib/dpkg/status.d, where scanners
# look on a root that has no dpkg.
set -eu
mkdir -p "$1/var/lib/dpkg/status.d"
for deb in "$1"/var/cache/apt/archives/*.deb; do
  dpkg-deb --field "$deb" > "$1/var/lib/dpkg/status.d/$(dpkg-deb --field "$deb" Package)"
done
