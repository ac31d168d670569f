#!/bin/sh
# Checks a device of this machine and measures training on it:
#
#   sh immiscible-device-test.sh DEVICE OUT [suite | steps [OPTION...] | runs]
#
# DEVICE is a name of `immiscible devices`, such as cuda; OUT is a folder for what is found. Without a part all three are done,
# which may take hours; OPTIONs are those of `immiscible bench-step`, such as --networks and --batches, in place of both
# precisions of everything, with PyTorch beside it where python3 has torch for the device and diffusers, and the share of the coupling to 8,192
# images. It needs tar, xz and the device's driver. Exit status: 0 if every check passed and everything was measured, 2 if there
# is no such device, else 1.
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
mkdir -p "$2" || exit 1
out=$(cd "$2" && pwd) || exit 1
shift $(($# < 3 ? $# : 3))
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tail -n +@PACKED@ "$0" | tar -xJ -C "$folder" || exit 1
immiscible=$folder/immiscible

# The shell's own status where a file cannot be written is 2.
touch "$out/devices.txt" "$out/dry-run.txt" || exit 1

# It opens devices of every kind, and another one's driver may end it.
"$immiscible" devices >"$out/devices.txt" || echo "immiscible devices ended with status $?" >>"$out/devices.txt"
cat "$out/devices.txt"

# Opens the device, and trains nothing.
status=0
"$immiscible" train --preset digits --device "$device" --dry-run >"$out/dry-run.txt" 2>&1 || status=$?
if [ $status -ne 0 ]; then
    cat "$out/dry-run.txt" >&2
    # One that is there and does not start, or does not answer, has failed.
    if [ $status -ne 2 ] || grep -q "does not start" "$out/dry-run.txt"; then
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
    if [ $# -gt 0 ]; then
        "$immiscible" bench-step --device "$device" --out "$out/step" "$@" || status=1
        return
    fi
    case $device in
    cuda*) has="torch.cuda.is_available()" ;;
    flex) has=True ;;
    *) has=False ;;
    esac
    ! python3 -c "import torch, diffusers; assert $has" 2>/dev/null || set -- --python python3
    "$immiscible" bench-step --device "$device" --out "$out/step" "$@" --precisions f32,bf16 || status=1
    # The activations of so many images at once are more than a GPU holds.
    "$immiscible" bench-step --device "$device" --out "$out/share" --networks ddpm-cifar10 --couplings assignment \
        --batches 128,1024,8192 --micro-batch 128 --steps 3 --most-seconds 100 || status=1
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
