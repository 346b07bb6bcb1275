#!/bin/sh
# Puts ONNX Runtime's C++ headers into PREFIX/include/onnxruntime: those of Debian 13, also where Debian is older.
# Wheels hold the library without them. It needs apt, and is done in seconds.
#
#   sudo sh tests/onnxruntime_headers.sh /usr/local
set -eu

[ $# -eq 1 ] || { echo "usage: sh tests/onnxruntime_headers.sh PREFIX" >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The machine's own mirror, and lists of packages apart from the machine's.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Label: Debian' | head -n 1)
[ -n "$mirror" ] || { echo "apt knows no mirror of Debian: run apt-get update" >&2; exit 1; }
echo "deb $mirror trixie main" > "$scratch/sources.list"
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
trixie() {
  apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::SourceList="$scratch/sources.list" -o Dir::Etc::SourceParts=- \
    -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch/cache" "$@"
}
trixie update
(cd "$scratch" && trixie download libonnxruntime-dev)
dpkg -x "$scratch"/libonnxruntime-dev_*.deb "$scratch/root"
mkdir -p "$1/include"
cp -r "$scratch/root/usr/include/onnxruntime" "$1/include/"
