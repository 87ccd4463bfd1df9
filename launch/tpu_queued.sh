#!/usr/bin/env bash
# Trains on TPU slices of a queued resource: the container starts on all machines as soon as the cloud has them.
#
#     launch/tpu_queued.sh --name run1 --project PROJECT --zone ZONE --accelerator v6e-16 --image IMAGE \
#         --service_account ACCOUNT [--slices 2] [--spot] [--keep] [--dry_run] \
#         -- --config configs/dit.py --workdir gs://BUCKET/run1 [--config.GROUP.KEY=VALUE ...]
#
#     --accelerator   one slice: v5litepod-CHIPS, v5p-CORES (two a chip) or v6e-CHIPS
#     --slices        slices that train together; each has its own copy of the model (--config.mesh.data)
#     --spot          cheaper machines that may be taken away at any time
#     --keep          stays: makes the queued resource again when it was taken away or failed, until training is over,
#                     and then deletes it. Whoever starts this again goes on watching the same run.
#     --service_account   whose rights the machines have: the bucket, the image, the log
#     --dry_run       prints the commands, and runs none
#
# The same command goes on after the last checkpoint, whatever ended the run.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

name='' project='' zone='' accelerator='' image='' service_account='' slices=1 spot='' keep=''
parse "name project zone accelerator image service_account slices" "spot keep" "$@"
needed name project zone accelerator image service_account
name "$name"
number slices
tpu "$accelerator"
training "$chip" "$slices"
[[ $workdir == gs://?* ]] || die "--workdir $workdir must be in a bucket, gs://BUCKET/RUN: all machines write to it"

place=(--project="$project" --zone="$zone")
status=$workdir/launch/exit_status # written by the machines when training is over
if ((slices > 1)); then
  nodes=(--node-count="$slices" --node-prefix="$name")
else
  nodes=(--node-id="$name")
fi
create=(gcloud compute tpus queued-resources create "$name" "${place[@]}" "${nodes[@]}"
  --accelerator-type="$accelerator" --runtime-version="$runtime" ${spot:+--spot}
  --service-account="$service_account" --scopes=https://www.googleapis.com/auth/cloud-platform
  --metadata-from-file=startup-script=launch/tpu_worker.sh
  # ;; parts the entries: a command may hold commas.
  --metadata="^;;^gen3r-image=$image;;gen3r-command=$(quoted "${training[@]}");;gen3r-status=$status")
forget=(gcloud storage rm --quiet "$status")
look=(gcloud compute tpus queued-resources list "${place[@]}" --filter="name~/$name\$" --format="value(state.state)")
finished=(gcloud storage cat "$status")
delete=(gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet)

if [[ ! $keep ]]; then
  run "${create[@]}"
elif [[ $dry_run ]]; then
  echo "# every 60 s:"
  quoted "${look[@]}"
  echo "# when there is none:"
  quoted "${forget[@]}"
  quoted "${create[@]}"
  echo "# when it is ACTIVE, has training ended, and how?"
  quoted "${finished[@]}"
  echo "# when training has ended, or it is SUSPENDED (taken away) or FAILED (then it is made again):"
  quoted "${delete[@]}"
else
  last=''
  while true; do
    if ! state=$("${look[@]}"); then
      state=UNKNOWN # no answer says nothing about the run
    fi
    [[ $state == "$last" ]] || echo "$(date +%FT%T) $name: ${state:-not there}"
    last=$state
    case $state in
      '')
        "${forget[@]}" 2>/dev/null || true
        "${create[@]}" || echo "cannot be made now; trying again" >&2
        ;;
      ACTIVE)
        if code=$("${finished[@]}" 2>/dev/null); then
          sleep 60 # the first machine has reported; the others leave together with it
          "${delete[@]}"
          echo "training ended with status $code"
          exit "$code"
        fi
        ;;
      SUSPENDED | FAILED) "${delete[@]}" || true ;;
    esac
    sleep 60
  done
fi
