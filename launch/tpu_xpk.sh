#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster: xpk makes a JobSet, which Kubernetes starts again after every interruption.
#
#     launch/tpu_xpk.sh --name run1 --project PROJECT --zone ZONE --cluster CLUSTER --accelerator v6e-16 --image IMAGE \
#         [--slices 2] [--restarts 30] [--create_cluster [--spot]] [--dry_run] \
#         -- --config configs/dit.py --workdir gs://BUCKET/run1 [--config.GROUP.KEY=VALUE ...]
#
#     --accelerator      one slice: v5litepod-CHIPS, v5p-CORES (two a chip) or v6e-CHIPS
#     --slices           slices that train together; each has its own copy of the model (--config.mesh.data)
#     --restarts         how often the JobSet may start again
#     --create_cluster   makes the cluster first, or brings it to this number of slices
#     --spot             its machines are cheaper and may be taken away at any time
#     --dry_run          prints the commands, and runs none

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

name='' project='' zone='' cluster='' accelerator='' image='' slices=1 restarts=30 create_cluster='' spot=''
parse "name project zone cluster accelerator image slices restarts" "create_cluster spot" "$@"
needed name project zone cluster accelerator image
name "$name"
number slices restarts
tpu "$accelerator"
training "$chip" "$slices"
[[ $workdir == gs://?* ]] || die "--workdir $workdir must be in a bucket, gs://BUCKET/RUN: all machines write to it"
[[ ! $spot || $create_cluster ]] || die "--spot goes with --create_cluster: a run takes the machines that its cluster has"

slice=(--cluster="$cluster" --project="$project" --zone="$zone" --tpu-type="$accelerator" --num-slices="$slices")
if [[ $create_cluster ]]; then
  capacity=--on-demand
  [[ ! $spot ]] || capacity=--spot
  run xpk cluster create "${slice[@]}" "$capacity"
fi
# exec: the signal of a machine's end must reach Python. xpk starts again after its status, 143, but by itself not after
# 1, and 75, with which a process ends when another one is lost.
run xpk workload create "${slice[@]}" --workload="$name" --docker-image="$image" --max-restarts="$restarts" \
  --restart-on-exit-codes=1,75 --termination-grace-period-seconds=600 --command="exec $(quoted "${training[@]}")"
