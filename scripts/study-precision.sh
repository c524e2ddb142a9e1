#!/usr/bin/env bash
# What tf32 and fp16 cost: every map and weight is rounded on the CPU, as tensor cores would read them, and picks and scores are
# compared with those in fp32. Prints one line for a data set and a precision.
#   scripts/study-precision.sh EPICKER OUTPUT SET=MODEL:MODE:DATA:LABELS[:OPTIONS]...
# SET: a name; MODEL: a file or a general model; MODE: particle, vesicle or fiber; DATA and LABELS: folders; OPTIONS: of epicker eval,
# such as `--diameter 150 --angpix 1.2`. The columns: average precision and best F1, then how many of the picks above 0.1 have a pick of
# fp32 within half a pixel of the image that the network sees, and the largest change of their scores.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
epicker=$(realpath "$1") out=$2
shift 2
mkdir -p "$out"
printf '%-22s %-5s %8s %8s %9s %9s %12s\n' set what AP F1 picks same score
for set in "$@"; do
    name=${set%%=*}
    IFS=: read -r model mode data labels options <<< "${set#*=}"
    for precision in fp32 tf32 fp16; do
        at=$out/$name-$precision
        # shellcheck disable=SC2086
        "$epicker" eval --data "$data" --label "$labels" --load_model "$model" --mode "$mode" --precision "$precision" --gpus -1 \
            --json $options 2> "$at.log" | tail -n 1 > "$at.json"
        # shellcheck disable=SC2086
        rm -rf "$at" && "$epicker" pick --data "$data" --load_model "$model" --mode "$mode" --precision "$precision" --gpus -1 --edge 0 \
            --output "$at" $options > "$at.txt" 2>&1
        # Fibers are judged by length, and have no average precision.
        value() { sed -n "s/.*\"$1\":\([0-9.eE+-]*\).*/\1/p" "$at.json"; }
        for candidates in "$out/$name-fp32/candidates"/*.star; do
            awk -v place="$(basename "$candidates")" '
                FNR == 1 { which++ }
                /^[ 0-9.eE+-]+$/ && NF >= 3 && $3 > 0.1 { n[which]++; x[which, n[which]] = $1; y[which, n[which]] = $2; s[which, n[which]] = $3 }
                END {
                    for (a = 1; a <= 2; a++)
                        for (i = 1; i <= n[a]; i++) {
                            best = 1e9
                            for (j = 1; j <= n[3 - a]; j++) {
                                d = (x[a, i] - x[3 - a, j]) ^ 2 + (y[a, i] - y[3 - a, j]) ^ 2
                                if (d < best) { best = d; e = s[a, i] - s[3 - a, j] }
                            }
                            if (e < 0) e = -e
                            print best <= 0.25, e
                        }
                }' "$candidates" "$at/candidates/$(basename "$candidates")"
        done | awk -v set="$name" -v what="$precision" -v ap="$(value ap)" -v f1="$(value f1_best)" -v length_f1="$(value length_f1)" '
            BEGIN { if (length_f1 != "") { f1 = length_f1; ap = "-" } }
            { picks++; if ($1) { same++; if ($2 > most) most = $2 } }
            END { printf "%-22s %-5s %8s %8.4f %9d %8.2f%% %12.1e\n", set, what, ap == "-" ? ap : sprintf("%.4f", ap), f1, picks / 2, picks ? 100 * same / picks : 100, most }'
    done
done
