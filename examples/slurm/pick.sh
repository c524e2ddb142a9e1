#!/usr/bin/env bash
# Picks a folder of micrographs with a job array, four tasks of one GPU each, and joins what they wrote when all have ended.
#   examples/slurm/pick.sh MICROGRAPHS OUTPUT [OPTIONS OF epicker pick]...
# A task that fails or is killed is put back into the queue once by --requeue; what it had finished is left alone.
# EPICKER names the program [default: epicker]. SBATCH holds more options of sbatch, such as a partition.
set -euo pipefail
micrographs=$(realpath "$1") output=$(realpath -m "$2")
shift 2
epicker=${EPICKER:-epicker}
mkdir -p "$output"

array=$(sbatch --parsable --job-name pick --array 1-4 --requeue --gpus-per-task "${GPUS_PER_TASK:-1}" --output "$output/task-%a.log" ${SBATCH:-} \
    --wrap "$(printf '%q ' "$epicker" pick --data "$micrographs" --output "$output" --shard slurm --skip-done "$@")")
sbatch --job-name merge --dependency "afterany:$array" --output "$output/merge.log" ${SBATCH:-} \
    --wrap "$(printf '%q ' "$epicker" merge "$output" --data "$micrographs")"
