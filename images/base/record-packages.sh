#!/bin/sh
# mmdebstrap --extract-hook: writes what each extracted package was to /var/lib/dpkg/status.d, where scanners
# look on a root that has no dpkg, with the digest of its file as apt's lists have it.
set -eu
mkdir -p "$1/var/lib/dpkg/status.d"
for deb in "$1"/var/cache/apt/archives/*.deb; do
  record="$1/var/lib/dpkg/status.d/$(dpkg-deb --field "$deb" Package)"
  dpkg-deb --field "$deb" > "$record"
  printf 'SHA256: %s\n' "$(sha256sum < "$deb" | cut -d ' ' -f 1)" >> "$record"
done
