#!/usr/bin/env bash
# Trains one network on several GPUs, of one node or of as many as Slurm takes: a task for each of them. All tasks share the images of
# each step, and what they come to is, bit by bit, what one GPU comes to with the same --batch_size, which is that of all of them.
#   examples/slurm/train.sh MICROGRAPHS LABELS FOLDER [OPTIONS OF epicker train]...
# EPICKER names the program [default: epicker], and TASKS is 2 if it is not given. SBATCH holds more options of sbatch, such as a partition
# or --nodes. A job that has ended early goes on with the same command and --resume.
set -euo pipefail
micrographs=$(realpath "$1") labels=$(realpath "$2") folder=$(realpath -m "$3")
shift 3
epicker=${EPICKER:-epicker}
mkdir -p "$folder"
sbatch --job-name train --ntasks "${TASKS:-2}" --gpus-per-task 1 --output "$folder/train.log" ${SBATCH:-} \
    --wrap "srun $(printf '%q ' "$epicker" train --team slurm --data "$micrographs" --label "$labels" --exp_id "$folder" "$@")"
