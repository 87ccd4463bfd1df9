#!/usr/bin/env bash
# What every machine of a queued resource runs when it starts (tpu_queued.sh passes it as the startup script).
# The metadata of the machine says which image, which command, and where to report the status of its end.
#
#     launch/tpu_worker.sh --dry_run     prints the commands with the names of the metadata instead of their values

set -euo pipefail
export HOME=${HOME:-/root} # startup scripts have none, and docker keeps its access to images there

case ${1-} in
  --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;;
  --dry_run) dry_run=yes ;;
  '') dry_run='' ;;
  *) echo "error: unknown argument $1; try --help" >&2 && exit 2 ;;
esac

attribute() {
  if [[ $dry_run ]]; then
    [[ $1 == agent-worker-number ]] && echo 0 || echo "<$1>"
    return
  fi
  curl --silent --fail --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

run() {
  if [[ $dry_run ]]; then echo "$*"; else "$@"; fi
}

image=$(attribute gen3r-image)
command=$(attribute gen3r-command)
report=$(attribute gen3r-status)

# The place of this machine among all machines of all slices: the cloud says it in its metadata and nowhere else.
tpu_env() { attribute tpu-env | sed -n "s/^$1: *'\{0,1\}\([^']*\).*/\1/p"; }
worker=$(attribute agent-worker-number)
IFS=, read -ra machines <<<"$(attribute worker-network-endpoints)" # of this slice: HOST, or NAME:NUMBER:HOST
slices=$(tpu_env MEGASCALE_NUM_SLICES)
slice=$(tpu_env MEGASCALE_SLICE_ID)
first=$(tpu_env MEGASCALE_COORDINATOR_ADDRESS)
first=${first:-${machines[0]##*:}}
place=()
if ((${slices:-1} * ${#machines[@]} > 1)); then
  place=(--env=GEN3R_COORDINATOR="${first%%:*}:8482" --env=GEN3R_NUM_PROCESSES="$((${slices:-1} * ${#machines[@]}))"
    --env=GEN3R_PROCESS_ID="$((${slice:-0} * ${#machines[@]} + worker))")
fi

run gcloud auth configure-docker "${image%%/*}" --quiet
for _ in 1 2 3 4 5; do
  run docker pull "$image" && break
  sleep 20
done
# Several tries: a process also fails when another machine was lost. 143 means that this machine is being taken away, or
# that someone stopped the container: training has saved what it could. What ran for a while may fail anew.
for ((tries = 0; tries < 5; tries++)); do
  status=0 SECONDS=0
  run docker rm --force gen3r || true
  run docker run --name gen3r --privileged --net=host --ipc=host --ulimit memlock=-1 --stop-timeout=600 \
    --volume=gen3r-copies:/tmp/.cache/gen3r_jax/copies --log-driver=gcplogs "${place[@]}" "$image" bash -c "exec $command" || status=$?
  case $status in
    0) break ;;
    143) exit 0 ;;
  esac
  ((SECONDS < 1800)) || tries=-1
  sleep 20
done
echo "$status" | run gcloud storage cp - "$report"
