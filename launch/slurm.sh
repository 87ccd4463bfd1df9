#!/usr/bin/env bash
# Trains on GPU nodes under Slurm, one process per GPU.
#
#     launch/slurm.sh --name run1 --nodes 4 [--gpus 8] [--time 24:00:00] [--partition P] [--account A] [--cpus 12] \
#         [--image IMAGE [--mounts /data:/data]] [--dry_run] \
#         -- --config configs/dit.py --workdir DIR [--config.GROUP.KEY=VALUE ...]
#
#     --nodes, --gpus   nodes, and GPUs of each
#     --cpus            CPU cores a GPU
#     --image           runs in this container (Pyxis); --mounts says which folders it sees
#     --dry_run         prints the command, and does not submit
#
# 10 minutes before its time is up, or when it has to give way, the job saves, and Slurm queues it again.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

name='' nodes='' gpus=8 time='' partition='' account='' cpus='' image='' mounts=''
parse "name nodes gpus time partition account cpus image mounts" "" "$@"
needed name nodes
name "$name"
number nodes gpus ${cpus:+cpus}
[[ ! $mounts || $image ]] || die "--mounts goes with --image"
training h100

# All processes of a node see all its GPUs; JAX gives each the one of its number.
srun=(srun --kill-on-bad-exit=1 ${cpus:+"--cpus-per-task=$cpus"} ${image:+"--container-image=$image" --container-workdir=/app}
  ${mounts:+"--container-mounts=$mounts"} "${training[@]}")
# shellcheck disable=SC2016 # these are variables of the job
again='{ status=$?; [ $status -ne 143 ] || scontrol requeue $SLURM_JOB_ID; exit $status; }'
run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" \
  --requeue --signal=TERM@600 --open-mode=append --output="$name-%j.log" \
  ${time:+"--time=$time"} ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
  ${cpus:+"--cpus-per-task=$cpus"} --wrap="$(quoted "${srun[@]}") || $again"
