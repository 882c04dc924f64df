#!/usr/bin/env bash
# How the models in weights/ were made: train, evaluate on people kept aside, export with a card.
#
#   train/weights.sh SCANS RUNS NAME ...
#
# SCANS holds mni/sub-{07,26}_space-MNI152_{T1w,T2w,FLAIR}.nii.gz and flair/sub-{01,03,04,12}_FLAIR.nii.gz, people of the
# two databases that docs/measurements.md names, and for sanchez2018_x4 dicom/sag_mprage/, the DICOM series that it names;
# RUNS gets the runs and results; NAMEs are those below.
# Needs tf-mrsr on the PATH. An interrupted training goes on where it was; the seed is 0 where none is given.
# PRECISION=float32 for processors without bfloat16 instructions, on which mixed_bfloat16, as the weights were made,
# takes many times as long.
# sanchez2018_x2_robust goes on from the runs of sanchez2018_x2, li2017_3dsrgan_r3 from those of li2017_3dsrcnn_r3: make
# these first, into the same RUNS.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
scans=$1 runs=$2 precision=${PRECISION:-mixed_bfloat16}
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

ship() {  # NAME RESULTS ...
    local name=$1 large=""
    [ $name = taloma2020_t1w_to_t2w ] && large=--no-generator
    rm -rf "$runs/exported/$name"
    tf-mrsr export --model "$runs/$name" -o "$runs/exported/$name" --evaluation "${@:2}" \
        --card "$root/train/cards/$name.yaml" --picture "$(figure "$2")" $large
    rm -rf "${root:?}/weights/$name"
    cp -R "$runs/exported/$name/1" "$root/weights/$name"
}

evaluate() {  # NAME SCANS [OPTION ...]
    local data
    mapfile -t data <<<"$2"
    tf-mrsr evaluate --model "$runs/$1" --data "${data[@]}" -o "$runs/$1.results" --overwrite "${@:3}"
}

with_a_skull() {  # NAME RECIPE SCANS START STEPS SEED PRECISION
    train $1 $2 "$3"$'\n'"$scans/dicom/sag_mprage" --precision $7 --steps $5 --seed $6 --start-from "$runs/$4" \
        --set stages.0.generator.optimizer.learning_rate=4.0e-4
}

# Each person tests what the other one trained, then the network trained by the first learns from both; with_skull: steps
# of three rounds in which it learns after that, the first two in float32, from a scan with a skull as well.
two_folds() {  # NAME RECIPE CONTRASTS STEPS FINAL_STEPS [START]; START: name of the model whose folds these go on from
    local name=$1 recipe=$2 contrasts=$3 start=${6:-} fold person other everyone
    for fold in 1 2; do
        [ $fold = 1 ] && person=sub-07 other=sub-26 || person=sub-26 other=sub-07
        train ${name}_fold$fold $recipe "$(mni $person $contrasts)" --precision "$precision" --steps $4 \
            ${start:+--start-from "$runs/${start}_fold$fold" $lower_rate}
        evaluate ${name}_fold$fold "$(mni $other $contrasts)" $flips
    done
    everyone=$(mni sub-07 $contrasts; mni sub-26 $contrasts)
    train $name${with_skull:+_stripped} $recipe "$everyone" --precision "$precision" --steps $5 \
        --start-from "$runs/${start:-${name}_fold1}" $lower_rate
    if [ -n "$with_skull" ]; then
        set -- $with_skull
        with_a_skull ${name}_round1 $recipe "$everyone" ${name}_stripped $1 0 float32
        with_a_skull ${name}_round2 $recipe "$everyone" ${name}_round1 $2 1 float32
        with_a_skull $name $recipe "$everyone" ${name}_round2 $3 2 "$precision"
    fi
    ship $name "$runs/${name}_fold1.results" "$runs/${name}_fold2.results"
}
lower_rate="--set stages.0.generator.optimizer.learning_rate=3.0e-4"
flips="" with_skull=""
all="T1w T2w FLAIR"

# Each of the four people tests what the other three trained, then one of the networks learns from all of them.
leave_one_out() {  # NAME RECIPE STEPS FINAL_STEPS
    local everyone=(sub-12 sub-01 sub-03 sub-04) name=$1 person results=()
    for person in "${everyone[@]}"; do
        train ${name}_without_$person $2 "$(flair $(printf '%s\n' "${everyone[@]}" | grep -v $person))" \
            --precision "$precision" --steps $3
        evaluate ${name}_without_$person "$(flair $person)"
        results+=("$runs/${name}_without_$person.results")
    done
    train $name $2 "$(flair "${everyone[@]}")" --precision "$precision" --steps $4 \
        --start-from "$runs/${name}_without_sub-12" --set stages.0.generator.optimizer.learning_rate=1.0e-4
    ship $name "${results[@]}"
}

thin_slices() {  # NAME RECIPE STEPS [OPTION ...]; three people train, the fourth tests
    train $1 $2 "$(flair sub-01 sub-03 sub-04)" --precision "$precision" --steps $3 "${@:4}"
    evaluate $1 "$(flair sub-12)"
    ship $1 "$runs/$1.results"
}

figure() {  # RESULTS: the first scan in three planes
    find "$1/figures" -name '*.png' ! -name '*_differences_*' | sort | head -n 1
}

for name in "$@"; do
    if [ ! -f "$root/train/cards/$name.yaml" ]; then
        echo "unknown model $name, or no card for it in train/cards" >&2
        exit 1
    fi
done
for name in "$@"; do
    case $name in
        sanchez2018_x2) flips=--tta two_folds $name sanchez2018_srgan3d_x2_pretrained "$all" 2000 1000 ;;
        sanchez2018_x2_robust)
            two_folds $name sanchez2018_srgan3d_x2_robust_pretrained "$all" 600 600 sanchez2018_x2
            ;;
        sanchez2018_x4)
            flips=--tta with_skull="3400 3600 7000" two_folds $name sanchez2018_srgan3d_x4_pretrained "$all" 9000 600
            ;;
        li2017_3dsrcnn_r2) thin_slices $name li2017_3dsrcnn_r3_pretrained 1500 --set degradation.factor=2 ;;
        li2017_3dsrcnn_r3) leave_one_out $name ${name}_pretrained 2000 500 ;;
        li2017_3dsrgan_r3)
            thin_slices $name ${name}_pretrained 400 --start-from "$runs/li2017_3dsrcnn_r3_without_sub-12"
            ;;
        li2017_3dsrcnn_r4) thin_slices $name li2017_3dsrcnn_r3_pretrained 1500 --set degradation.factor=4 ;;
        taloma2020_t1w_to_t2w) two_folds $name taloma2020_resgan_pretrained "T1w T2w" 450 200 ;;
        *)
            echo "unknown model $name" >&2
            exit 1
            ;;
    esac
done
