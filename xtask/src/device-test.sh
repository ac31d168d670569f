#!/bin/sh
# Checks a device of this machine and measures training on it:
#
#   sh immiscible-device-test.sh DEVICE OUT
#
# DEVICE is a name of `immiscible devices`, such as cuda; OUT is a folder for what is found. It needs tar, xz and the device's
# driver. Exit status: 0 if every check passed and everything was measured, 2 if there is no such device, else 1.
set -eu
if [ $# -ne 2 ]; then
    echo "usage: sh $0 DEVICE OUT" >&2
    exit 2
fi
device=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tail -n +@PACKED@ "$0" | tar -xJ -C "$folder"
immiscible=$folder/immiscible

"$immiscible" devices >"$out/devices.txt"
cat "$out/devices.txt"

# The suite's networks are small: to look longer for the fastest kernels takes more time than they do.
echo "== suite: $out/suite.txt"
status=0
CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal} "$immiscible" device-suite --device "$device" \
    --golden "$folder/golden" --json "$out/suite.json" >"$out/suite.txt" 2>&1 || status=$?
cat "$out/suite.txt"
if [ $status -eq 2 ]; then
    # One that is there and does not start has failed.
    if grep -q "^${device%%:*} .*does not start" "$out/devices.txt"; then
        exit 1
    fi
    exit 2
fi

# What fails is told, and what comes after it is still tried.
echo "== training steps: $out/step.md"
"$immiscible" bench-step --device "$device" --precisions f32,bf16 --out "$out/step" || status=1
echo "== runs: $out/report.html"
for coupling in independent assignment knn; do
    "$immiscible" train --preset digits --device "$device" --coupling $coupling --check-device \
        --runs "$out/runs" --run $coupling --fresh || status=1
done
case $device in
cuda*)
    "$immiscible" train --preset digits --device "$device" --set train.precision=bf16 --check-device \
        --runs "$out/runs" --run bf16 --fresh || status=1
    ;;
esac
"$immiscible" report "$out/runs"/* --out "$out/report.html" || status=1
exit $status

