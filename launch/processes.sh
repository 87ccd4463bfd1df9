#!/usr/bin/env bash
# Trains on GPUs in several processes without a scheduler: on hosts reached by ssh, or here.
#
#     launch/processes.sh --hosts HOST,HOST [--gpus 8] [--per gpu|node] [--port 12355] [--dry_run] \
#         -- --config configs/dit.py --workdir DIR [--config.GROUP.KEY=VALUE ...]
#     launch/processes.sh --local 8 [--port 12355] [--dry_run] -- ...
#
#     --hosts     where; ssh must get there without asking, this folder and PATH must hold there too. The first one
#                 coordinates, and the others must reach it under this name.
#     --gpus      GPUs of each host
#     --per       a process for each GPU, or one for each host with all its GPUs
#     --local     so many processes on this machine, one per GPU
#     --port      of the coordinator
#     --dry_run   prints the commands, and runs none
#
# When one process ends badly, the others are stopped, and this ends with its status. On SIGTERM or Ctrl-C all processes
# save, and this ends with 143. The same command goes on after the last checkpoint.
#
# --share FIRST,COUNT,TOTAL,HOST is what this script asks of itself on every host: processes FIRST to FIRST + COUNT - 1
# of TOTAL, coordinated by HOST, until the standard input ends.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/common.sh

patience=600 # seconds for saving, as under Slurm

hosts='' gpus=8 per=gpu local='' port=12355 share=''
parse "hosts gpus per local port share" "" "$@"
number gpus port ${local:+local}
[[ $per == gpu || $per == node ]] || die "--per $per must be gpu or node"
[[ $hosts || $local || $share ]] || die "--hosts or --local is needed; try --help"
[[ ! $hosts || ! $local ]] || die "--hosts and --local exclude each other"
[[ ! $hosts || $hosts =~ ^[A-Za-z0-9][A-Za-z0-9@._-]*(,[A-Za-z0-9][A-Za-z0-9@._-]*)*$ ]] || die "--hosts $hosts must be names with commas between"
[[ ! $share || $share =~ ^[0-9]+,[0-9]+,[0-9]+,[^,]+$ ]] || die "--share $share must be FIRST,COUNT,TOTAL,HOST"
training h100

pids=()

# Stops the processes, or the shares on other hosts, and lets them save.
stop() {
  set +m # or a second Ctrl-C would end this script inside of `sleep`, and leave the processes alone
  [[ ! ${HOLD_PID-} ]] || kill "$HOLD_PID" 2>/dev/null || true # the standard input of all shares ends
  [[ $hosts ]] || kill -TERM "${pids[@]}" 2>/dev/null || true
  SECONDS=0
  while ((SECONDS < patience)) && kill -0 "${pids[@]}" 2>/dev/null; do sleep 0.2; done
  kill -KILL "${pids[@]}" 2>/dev/null || true
  exit "$1"
}

trap 'stop 143' TERM INT HUP
set -m # each process leads a group of its own: Ctrl-C then reaches this script alone, which tells them once

# Waits for all of `pids`; the first that ends badly ends all.
wait_for_all() {
  for _ in "${pids[@]}"; do wait -n || stop $?; done
  stop 0
}

if [[ $hosts ]]; then
  IFS=, read -ra names <<<"$hosts"
  count=$([[ $per == gpu ]] && echo "$gpus" || echo 1)
  # One pipe that never says anything is the input of all: it ends when this script stops them, or dies.
  if [[ ! $dry_run ]]; then
    coproc HOLD { cat; }
    exec {quiet}<&"${HOLD[0]}"
  fi
  for index in "${!names[@]}"; do
    part="$((index * count)),$count,$((${#names[@]} * count)),${names[0]#*@}"
    there=(env "PATH=$PATH" launch/processes.sh --share "$part" --port "$port" -- "${arguments[@]}")
    command=(ssh -o BatchMode=yes "${names[index]}" "cd $(quoted "$PWD") && exec $(quoted "${there[@]}")")
    if [[ $dry_run ]]; then
      quoted "${command[@]}"
    else
      "${command[@]}" <&"$quiet" &
      pids+=($!)
    fi
  done
else
  IFS=, read -r first count total host <<<"${share:-0,$local,$local,localhost}"
  for ((index = 0; index < count; index++)); do
    environment=("GEN3R_COORDINATOR=$host:$port" "GEN3R_NUM_PROCESSES=$total" "GEN3R_PROCESS_ID=$((first + index))")
    ((count == 1)) || environment+=("CUDA_VISIBLE_DEVICES=$index")
    if [[ $dry_run ]]; then
      quoted env "${environment[@]}" "${training[@]}"
    else
      env "${environment[@]}" "${training[@]}" &
      pids+=($!)
    fi
  done
  if [[ $share && ! $dry_run ]]; then
    # The output is not kept open, or ssh would wait for this when all is over.
    { cat && kill -TERM $$; } <&0 >/dev/null 2>&1 &
  fi
fi
[[ $dry_run ]] || wait_for_all
