#!/bin/sh
# mmdebstrap --extract-hook and --customize-hook: notes the digests of packages' files in /var/lib/dpkg/debs.sha256 while
# they are there; they go once they are installed.
set -eu
cd "$1/var/cache/apt/archives"
sha256sum -- *.deb >> "$1/var/lib/dpkg/debs.sha256"
