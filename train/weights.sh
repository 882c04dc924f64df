#!/usr/bin/env bash
# How the models in weights/ were made: train, evaluate on people kept aside, export with a card.
#
#   train/weights.sh SCANS RUNS NAME ...
#
# SCANS holds mni/ and flair/ of the data that the cards name, RUNS gets the runs and results; NAMEs are those below.
# Needs tf-mrsr on the PATH. An interrupted training goes on where it was; seed 0 throughout.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
scans=$1 runs=$2
shift 2

mni() {  # PERSON CONTRAST ...
    local person=$1 contrast
    shift
    for contrast in "$@"; do echo "$scans/mni/${person}_space-MNI152_$contrast.nii.gz"; done
}

flair() {  # PERSON ...
    local person
    for person in "$@"; do echo "$scans/flair/${person}_FLAIR.nii.gz"; done
}

train() {  # NAME RECIPE SCANS [OPTION ...]; SCANS separated by line breaks
    local name=$1 recipe=$2 data
    mapfile -t data <<<"$3"
    if [ -f "$runs/$name/run.json" ]; then
        tf-mrsr train --run "$runs/$name" --resume --data "${data[@]}"
    else
        tf-mrsr train --run "$runs/$name" --recipe "$recipe" --data "${data[@]}" "${@:4}"
    fi
}

ship() {  # NAME SCANS
    local name=$1 data
    mapfile -t data <<<"$2"
    tf-mrsr evaluate --model "$runs/$name" --data "${data[@]}" -o "$runs/$name.results" --overwrite
    rm -rf "$runs/exported/$name"
    tf-mrsr export --model "$runs/$name" -o "$runs/exported/$name" --evaluation "$runs/$name.results" \
        --card "$root/train/cards/$name.yaml" --picture "$(figure "$runs/$name.results")"
    rm -rf "${root:?}/weights/$name"
    cp -R "$runs/exported/$name/1" "$root/weights/$name"
}

figure() {  # RESULTS: the first scan in three planes
    find "$1/figures" -name '*.png' ! -name '*_differences_*' | sort | head -n 1
}

for name in "$@"; do
    case $name in
        sanchez2018_x2)
            train $name sanchez2018_srgan3d_x2_quick "$(mni sub-07 T1w)" \
                --validation "$(mni sub-26 T1w)" --precision mixed_bfloat16
            ship $name "$(mni sub-26 T1w T2w FLAIR)"
            ;;
        sanchez2018_x4)
            train $name sanchez2018_srgan3d_x4_pretrained "$(mni sub-07 T1w T2w FLAIR)" \
                --precision mixed_bfloat16 --steps 1500
            ship $name "$(mni sub-26 T1w T2w FLAIR)"
            ;;
        li2017_3dsrcnn_r3 | li2017_3dsrgan_r3)
            train $name ${name}_quick "$(flair sub-01 sub-03 sub-04)" --precision mixed_bfloat16 --steps 1100
            ship $name "$(flair sub-12)"
            ;;
        *)
            echo "unknown model $name" >&2
            exit 1
            ;;
    esac
done
