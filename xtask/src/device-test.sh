#!/bin/sh
# Checks a device of this machine and measures training on it:
#
#   sh immiscible-device-test.sh DEVICE OUT [suite | steps [OPTION...] | runs]
#
# DEVICE is a name of `immiscible devices`, such as cuda; OUT is a folder for what is found. Without a part all three are done,
# which may take hours; OPTIONs are those of `immiscible bench-step`, such as --networks and --batches, in place of both
# precisions of everything. It needs tar, xz and the device's driver. Exit status: 0 if every check passed and everything was
# measured, 2 if there is no such device, else 1.
set -eu
part=${3:-all}
case $#$part in
2all | 3suite | [3-9]steps | [1-9][0-9]steps | 3runs) ;;
*)
    echo "usage: sh $0 DEVICE OUT [suite | steps [OPTION...] | runs]" >&2
    exit 2
    ;;
esac
device=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
shift $(($# < 3 ? $# : 3))
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tail -n +@PACKED@ "$0" | tar -xJ -C "$folder"
immiscible=$folder/immiscible

"$immiscible" devices >"$out/devices.txt"
cat "$out/devices.txt"

# Opens the device, and trains nothing.
status=0
"$immiscible" train --preset digits --device "$device" --dry-run >"$out/dry-run.txt" || status=$?
if [ $status -ne 0 ]; then
    # One that is there and does not start, or does not answer, has failed.
    if [ $status -ne 2 ] || grep -q -e "^$device .*does not start" -e "^$device:0 .*does not start" "$out/devices.txt"; then
        exit 1
    fi
    exit 2
fi

# What fails is told, and what comes after it is still tried.
suite() {
    echo "== suite: $out/suite.txt"
    # Its networks are small: to look longer for the fastest kernels takes more time than they do.
    failed=0
    CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal} "$immiscible" device-suite --device "$device" \
        --golden "$folder/golden" --json "$out/suite.json" >"$out/suite.txt" 2>&1 || failed=1
    cat "$out/suite.txt"
    [ $failed -eq 0 ] || status=1
}

steps() {
    echo "== training steps: $out/step.md"
    [ $# -gt 0 ] || set -- --precisions f32,bf16
    "$immiscible" bench-step --device "$device" --out "$out/step" "$@" || status=1
}

runs() {
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
}

case $part in
all)
    suite
    steps
    runs
    ;;
*) "$part" "$@" ;;
esac
exit $status
