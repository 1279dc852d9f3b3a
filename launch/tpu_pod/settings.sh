# shellcheck shell=bash
# The settings of tpu_pod.sh: from a file of KEY=VALUE lines and from flags, checked before anything is done.

PROJECT='' ZONE='' NAME='' ACCELERATOR_TYPE='' RUNTIME_VERSION='' SERVICE_ACCOUNT='' NETWORK='' SUBNETWORK='' SHARED_FOLDER=''
SPOT=false PLAIN=false INTERNAL_IP=false
REQUIRED='PROJECT ZONE NAME ACCELERATOR_TYPE'

bad_input() {
  echo "error: $*" >&2
  exit 2
}

matches() {
  local LC_ALL=C
  [[ $1 =~ $2 ]]
}

# set_setting KEY VALUE ORIGIN: refuses keys and values that are not what Google Cloud takes.
set_setting() {
  local pattern remedy
  case $1 in
    PROJECT) pattern='^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$' remedy='a project id such as my-project-123' ;;
    ZONE) pattern='^[a-z]+-[a-z]+[0-9]+-[a-z]$' remedy='a zone such as us-west4-a' ;;
    NAME) pattern='^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$' remedy='lower-case letters, digits and hyphens' ;;
    ACCELERATOR_TYPE) pattern='^[a-z0-9]+-[1-9][0-9]{0,4}$' remedy='a type such as v5litepod-16 (v5e), v6e-8, v5p-16 or v4-8' ;;
    RUNTIME_VERSION) pattern='^[a-z0-9][a-z0-9.-]*$' remedy='a runtime such as v2-alpha-tpuv6e' ;;
    SPOT | PLAIN | INTERNAL_IP) pattern='^(true|false)$' remedy='true or false' ;;
    SERVICE_ACCOUNT) pattern='^[a-zA-Z0-9._-]+@[a-zA-Z0-9.-]+$' remedy='the e-mail address of a service account' ;;
    NETWORK | SUBNETWORK) pattern='^[a-zA-Z0-9._/-]+$' remedy='the name of a network' ;;
    SHARED_FOLDER) pattern='^/[a-zA-Z0-9._/-]+$' remedy='an absolute path that all workers mount' ;;
    *) bad_input "$3: unknown setting '$1'; launch/tpu_pod.env.example lists them" ;;
  esac
  matches "$2" "$pattern" || bad_input "$3: $1='$2' cannot be; give $remedy"
  printf -v "$1" %s "$2"
}

# Reads a file of KEY=VALUE lines without executing anything in it.
read_settings() {
  local line number=0 key seen=' '
  [ -f "$1" ] || bad_input "--env '$1': no such file; copy launch/tpu_pod.env.example"
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    matches "$line" '^[[:space:]]*(#.*)?$' && continue
    matches "$line" '^[A-Z_]+=' || bad_input "$1, line $number: '$line' is not KEY=VALUE"
    key=${line%%=*}
    case $seen in *" $key "*) bad_input "$1, line $number: $key is given twice; keep one" ;; esac
    seen="$seen$key "
    set_setting "$key" "${line#*=}" "$1, line $number"
  done <"$1"
}

check_settings() {
  local key
  for key in $REQUIRED; do
    [ -n "${!key}" ] || bad_input "$key is not set; put $key=... into launch/tpu_pod.env, or give $(flag_of "$key")"
  done
  [ -n "$RUNTIME_VERSION" ] || RUNTIME_VERSION=$(runtime_of "$ACCELERATOR_TYPE")
}

flag_of() {
  case $1 in
    ACCELERATOR_TYPE) echo --accelerator ;;
    RUNTIME_VERSION) echo --runtime ;;
    *) echo "--$(echo "$1" | tr 'A-Z_' 'a-z-')" ;;
  esac
}

# The images that Google's list of TPU software versions names for JAX.
runtime_of() {
  case $1 in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5e-*) bad_input "ACCELERATOR_TYPE='$1' cannot be; Google Cloud calls it v5litepod-${1#*-}" ;;
    *) bad_input "ACCELERATOR_TYPE='$1': its runtime is not known here; give --runtime" ;;
  esac
}

# Every type of up to 8 cores (v4, v5p) or chips (v5e, v6e) is one machine, every larger one several.
has_many_workers() {
  [ "${ACCELERATOR_TYPE##*-}" -gt 8 ]
}

# check_output_dir REASON [ARGS]: output_dir must outlive each worker and be seen by all.
check_output_dir() {
  local reason=$1 output_dir='' remedy='give --output_dir gs://BUCKET/FOLDER'
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      --output_dir=*) output_dir=${1#*=} ;;
      --output_dir) output_dir=${2:-} ;;
    esac
    shift
  done
  case $output_dir in
    *..*) ;;
    gs://?*/?*) return ;;
    "${SHARED_FOLDER:-/dev/null}"/?*) return ;;
  esac
  bad_input "output_dir='$output_dir': $reason; $remedy, or a folder inside --shared-folder"
}
