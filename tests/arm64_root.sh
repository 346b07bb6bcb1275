#!/bin/sh
# Makes an arm64 root for the tests marked arm64: a Debian 12 Python with ONNX Runtime and numpy, to be run by
# qemu-aarch64-static as it lies there: without chroot or binfmt. Making it needs debootstrap (which wants to be root),
# dpkg and pip, and half a minute; it takes 400 MB.
#
#   sh tests/arm64_root.sh ROOT && INTRAQ_ARM64_ROOT=ROOT pytest -m arm64
#
# ONNX Runtime 1.23.2 runs in Debian 12's qemu 7.2; 1.28 and later crash in it.
set -eu

[ $# -eq 1 ] || { echo "usage: sh tests/arm64_root.sh ROOT" >&2; exit 2; }
[ ! -e "$1" ] || { echo "$1 exists: remove it, or name another folder" >&2; exit 2; }
mkdir -p "$1"
root=$(cd "$1" && pwd)

debootstrap --foreign --arch=arm64 --variant=minbase --include=python3,libstdc++6,libgomp1 bookworm "$root"
for package in "$root"/var/cache/apt/archives/*.deb; do
  dpkg -x "$package" "$root"
done

python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --dest "$root/wheels" \
  --platform manylinux_2_17_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
  onnxruntime==1.23.2 numpy==2.2.6
for wheel in "$root"/wheels/*.whl; do
  python3 -m zipfile -e "$wheel" "$root/opt/packages"
done
