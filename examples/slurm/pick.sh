#!/usr/bin/env bash
# Picks a folder of micrographs with a job array, four tasks that work on all GPUs that Slurm gives them, and joins what they wrote when
# all have ended.
#   examples/slurm/pick.sh MICROGRAPHS OUTPUT [OPTIONS OF epicker pick]...
# A task whose node fails, or that is killed for want of memory, is put back into the queue, twice at most; what it had finished is left
# alone.
# EPICKER names the program [default: epicker], and GPUS_PER_TASK is 1 if it is not given. SBATCH holds more options of sbatch, such as a
# partition.
set -euo pipefail
micrographs=$(realpath "$1") output=$(realpath -m "$2")
shift 2
epicker=${EPICKER:-epicker}
mkdir -p "$output"

pick=$(printf '%q ' "$epicker" pick --data "$micrographs" --output "$output" --gpus all --shard slurm --skip-done "$@")
# Slurm itself puts a job back only if its node has failed.
again='status=$?; case $status in 135 | 137) [ "${SLURM_RESTART_COUNT:-0}" -ge 2 ] || scontrol requeue "$SLURM_JOB_ID" ;; esac; exit $status'
array=$(sbatch --parsable --job-name pick --array 1-4 --ntasks 1 --requeue --open-mode append --gpus-per-task "${GPUS_PER_TASK:-1}" \
    --output "$output/task-%a.log" ${SBATCH:-} --wrap "$pick || { $again; }")
sbatch --job-name merge --dependency "afterany:$array" --output "$output/merge.log" ${SBATCH:-} \
    --wrap "$(printf '%q ' "$epicker" merge "$output" --data "$micrographs")"
