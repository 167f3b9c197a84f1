#!/usr/bin/env bash
# Train both starter models, from the text folder to the model cards.
#
#   tools/starter/run.sh cpu TEXT WORK START [COLLECTION …]   START: a BERT-shaped causal model
#   tools/starter/run.sh gpu TEXT WORK [COLLECTION …]         both models from random numbers
#
# TEXT holds passages.jsonl.xz and questions.jsonl.xz; a COLLECTION is a BEIR folder to measure on.
# What is finished is not made again, and a training goes on at its last checkpoint: a run that was
# stopped is continued by the same command. PYTHON names the interpreter, MACHINE the machine in the
# cards' words, ORIGIN a Markdown file on where START came from.
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
variant=$1 text=$2 work=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
settings="$here/language_model_$variant.yaml"
encoder_settings=() origin=()

case $variant in
cpu)
    [ $# -ge 1 ] || usage
    start=$1
    shift
    origin=(--origin "${ORIGIN:-$here/origin_cpu.md}")
    ;;
gpu)
    start="$work/tokenizer"
    encoder_settings=("$here/encoder_gpu.yaml")
    ;;
*) usage ;;
esac

mkdir -p "$work"
# The statistics are written last.
[ -f "$work/pairs/statistics.json" ] ||
    "$python" "$here/pairs.py" --text "$text" --out "$work/pairs"
pairs="$work/pairs/pairs.jsonl"
[ -f "$pairs" ] || pairs="$pairs.xz"
[ "$variant" = cpu ] || [ -d "$work/tokenizer" ] ||
    "$python" "$here/tokenizer.py" --text "$text" --out "$work/tokenizer"

"$python" "$here/language_model.py" "$settings" --pairs "$pairs" \
    --start "$start" --out "$work/language_model"

if [ "$variant" = cpu ]; then encoder_start="$work/language_model/model"; else encoder_start=$start; fi
"$python" "$here/encoder.py" --start "$encoder_start" --text "$text" --out "$work/encoder" \
    ${encoder_settings:+--settings "${encoder_settings[@]}"}

measure() {
    [ -f "$2" ] || "$python" "$here/evaluate.py" "$1" --pairs "$pairs" \
        --settings "$settings" --out "$2" ${collections:+--collections "${collections[@]}"}
}
collections=("$@")
first=$start
[ "$variant" = cpu ] || first="$work/language_model/start"
measure "$first" "$work/before.json"
measure "$work/language_model/model" "$work/after.json"

"$python" "$here/cards.py" --text "$text" --pairs "$pairs" \
    --language-model "$work/language_model" --settings "$settings" ${origin[@]+"${origin[@]}"} \
    --encoder "$work/encoder" ${encoder_settings:+--encoder-settings "${encoder_settings[@]}"} \
    --before "$work/before.json" --after "$work/after.json" --machine "${MACHINE:-a $variant machine}"
echo "$work/language_model/model and $work/encoder/model are finished."
