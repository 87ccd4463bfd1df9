# shellcheck shell=bash
# shellcheck disable=SC2034 # variables that these functions set are for the scripts that source this
# Sourced by the launchers: options, the training command, chips, and how a command is shown or run.

dry_run='' help='' arguments=() training=() workdir='' chip='' runtime=''

die() {
  echo "error: $*" >&2
  exit 2
}

# parse "OPTIONS THAT TAKE A VALUE" "SWITCHES" "$@": fills the variable of each option, which the script has set to its
# default, and `arguments` with what follows `--`. Prints the comment at the head of the script for --help.
parse() {
  local valued=" $1 " switches=" $2 dry_run help " key
  shift 2
  while (($#)); do
    key=${1#--}
    case $1 in
      --) arguments=("${@:2}") && break ;;
      --*=*) set -- "--${key%%=*}" "${key#*=}" "${@:2}" && continue ;;
    esac
    if [[ $1 == --* && $switches == *" $key "* ]]; then
      printf -v "$key" yes && shift
    elif [[ $1 == --* && $valued == *" $key "* ]]; then
      (($# > 1)) || die "$1 needs a value; try --help"
      printf -v "$key" %s "$2" && shift 2
    else
      die "unknown argument $1; try --help"
    fi
  done
  if [[ $help ]]; then
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
  fi
}

needed() {
  local key
  for key; do [[ ${!key} ]] || die "--$key is needed; try --help"; done
}

number() {
  local key
  for key; do [[ ${!key} =~ ^[1-9][0-9]*$ ]] || die "--$key ${!key} must be a number of at least 1"; done
}

# A name that clouds and schedulers take.
name() {
  [[ $1 =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    die "--name $1 must be 1 to 40 lower-case letters, digits and dashes, a letter first and no dash last"
}

# training CHIP [SLICES]: sets `workdir`, and `training` to the command that trains with the flags of the chip. Several
# slices are joined by a slow network: unless the arguments say otherwise, each has its own copy of the model.
training() {
  local index argument next config='' mesh=''
  workdir=''
  for index in "${!arguments[@]}"; do
    argument=${arguments[index]} next=${arguments[index + 1]-}
    case $argument in
      --config) config=$next ;;
      --config=*) config=${argument#*=} ;;
      --workdir) workdir=$next ;;
      --workdir=*) workdir=${argument#*=} ;;
      --config.mesh.data*) mesh=given ;;
    esac
  done
  [[ $config && $workdir ]] || die "the arguments of training follow --, such as -- --config configs/dit.py --workdir DIR"
  [[ -f ${config%%:*} ]] || die "there is no config file ${config%%:*}"
  training=(launch/with_flags.sh "$1" python -m gen3r_jax.train "${arguments[@]}")
  [[ ${2-1} == 1 || $mesh ]] || training+=("--config.mesh.data=$2")
}

# tpu TYPE: sets `chip` and `runtime`, what runs on its machines, from the cloud's name for a slice.
tpu() {
  case $1 in
    v5litepod-*) chip=v5e runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) chip=v5p runtime=v2-alpha-tpuv5 ;;
    v6e-*) chip=v6e runtime=v2-alpha-tpuv6e ;;
    *) die "--accelerator $1 is unknown; it must be v5litepod-CHIPS, v5p-CORES (two a chip) or v6e-CHIPS" ;;
  esac
  local size=${1##*-}
  if [[ $chip == v5p ]]; then
    [[ $size =~ ^[1-9][0-9]{0,4}$ && $((size % 8)) == 0 ]] || die "--accelerator $1: v5p-CORES counts in steps of 8 cores"
  else
    [[ " 1 4 8 16 32 64 128 256 " == *" $size "* ]] || die "--accelerator $1: CHIPS must be 1, 4, 8, 16, 32, 64, 128 or 256"
  fi
}

# Prints a command as one can paste it.
quoted() {
  local word line=''
  for word; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "${line# }"
}

# Runs a command, or shows it in a dry run.
run() {
  if [[ $dry_run ]]; then quoted "$@"; else "$@"; fi
}
