# shellcheck shell=bash
# What tpu_pod.sh asks of gcloud, and says instead of it in a dry run.

DRY_RUN=false
# What a dry run takes the pod for; it asks nobody.
ASSUMED_POD=ready
WORKER_SCRIPT=prorank-jax/checkout/launch/tpu_pod/worker.sh
NOT_SET_UP='not set up'

note() {
  echo "$*" >&2
}

fail() {
  echo "error: $*" >&2
  exit 1
}

# Prints the words so that a shell reads them back as they are.
quoted() {
  local LC_ALL=C apostrophe="'\\''" space='' word
  for word in "$@"; do
    if [[ -n $word && $word != *[!A-Za-z0-9_@%+=:,./-]* ]]; then
      printf '%s%s' "$space" "$word"
    else
      printf "%s'%s'" "$space" "${word//\'/$apostrophe}"
    fi
    space=' '
  done
}

# Runs a command; a dry run prints it instead. File descriptor 3 is the script's own standard output.
act() {
  if $DRY_RUN; then
    quoted "$@" >&3
    echo >&3
  else
    "$@"
  fi
}

tpus() {
  act gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"
}

check_gcloud() {
  $DRY_RUN && return
  command -v gcloud >/dev/null || fail "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
  [ -n "$(gcloud auth list --filter=status:ACTIVE --format='value(account)' 2>/dev/null)" ] ||
    fail "gcloud is not logged in; run: gcloud auth login"
}

# describe COLLECTION FIELDS ASSUMED: the fields separated by tabs, or nothing where there is no such resource; fails
# where gcloud does. Its words are in $SCRATCH/errors.
describe() {
  local answer
  if answer=$(tpus "$1" describe "$NAME" --format="value($2)" 2>"$SCRATCH/errors"); then
    if $DRY_RUN; then echo "$3"; else echo "$answer"; fi
  else
    grep -q NOT_FOUND "$SCRATCH/errors"
  fi
}

find_pod() {
  look_up_pod && return
  cat "$SCRATCH/errors" >&2
  fail "gcloud cannot say what $NAME is; see its message above"
}

# Sets POD to absent, waiting, ready, suspending, suspended, failed, deleting or unusable, and POD_DETAIL, POD_TYPE and
# POD_QUEUED (whether it is a queued resource, whatever the settings say); fails where gcloud does.
look_up_pod() {
  local queued='' node='' assumed_queue='' assumed_node=''
  if $DRY_RUN && [ "$ASSUMED_POD" = ready ]; then
    assumed_node=READY$'\t'$ACCELERATOR_TYPE
    $PLAIN || assumed_queue=ACTIVE$'\t'$ACCELERATOR_TYPE
  fi
  queued=$(describe queued-resources 'state.state,tpu.nodeSpec[0].node.acceleratorType' "$assumed_queue") || return 1
  POD_QUEUED=false POD_TYPE=${queued##*$'\t'} POD_DETAIL=${queued%%$'\t'*}
  if [ -n "$queued" ]; then
    POD_QUEUED=true
    case $POD_DETAIL in
      ACTIVE) ;;
      CREATING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES) POD=waiting && return ;;
      SUSPENDING) POD=suspending && return ;;
      SUSPENDED) POD=suspended && return ;;
      FAILED) POD=failed && return ;;
      DELETING) POD=deleting && return ;;
      *) POD=unusable && return ;;
    esac
  fi
  node=$(describe tpu-vm state,acceleratorType "$assumed_node") || return 1
  if [ -z "$node" ]; then
    if $POD_QUEUED; then POD=suspended POD_DETAIL='ACTIVE without a TPU VM'; else POD=absent POD_DETAIL=absent; fi
    return
  fi
  POD_TYPE=${node##*$'\t'} POD_DETAIL=${node%%$'\t'*}
  case $POD_DETAIL in
    READY) POD=ready ;;
    CREATING | STARTING | RESTARTING | REPAIRING | REIMAGING) POD=waiting ;;
    PREEMPTED | TERMINATED) POD=suspended ;;
    # A queued resource that somebody deletes says so itself; where only its TPU VM goes, it is being taken away.
    DELETING) if $POD_QUEUED; then POD=suspending; else POD=deleting; fi ;;
    *) POD=unusable ;;
  esac
}

check_type() {
  [ -z "$POD_TYPE" ] || [ "$POD_TYPE" = "$ACCELERATOR_TYPE" ] ||
    fail "$NAME exists and is a $POD_TYPE, not a $ACCELERATOR_TYPE; take another --name, or run: tpu_pod.sh delete"
}

count_workers() {
  local addresses
  addresses=$(describe tpu-vm 'networkEndpoints[].ipAddress' 'ADDRESS') || fail "$(cat "$SCRATCH/errors")"
  echo "$addresses" | tr ';' '\n' | wc -l | tr -d ' '
}

create_pod() {
  local flags=()
  $SPOT && flags+=(--spot)
  $INTERNAL_IP && flags+=(--internal-ips)
  [ -n "$NETWORK" ] && flags+=("--network=$NETWORK")
  [ -n "$SUBNETWORK" ] && flags+=("--subnetwork=$SUBNETWORK")
  [ -n "$SERVICE_ACCOUNT" ] && flags+=("--service-account=$SERVICE_ACCOUNT")
  if $PLAIN; then
    tpus tpu-vm create "$NAME" --accelerator-type="$ACCELERATOR_TYPE" --version="$RUNTIME_VERSION" ${flags[@]+"${flags[@]}"}
  else
    tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$ACCELERATOR_TYPE" \
      --runtime-version="$RUNTIME_VERSION" ${flags[@]+"${flags[@]}"}
  fi
}

delete_pod() {
  if $POD_QUEUED; then
    tpus queued-resources delete "$NAME" --force --quiet
  else
    tpus tpu-vm delete "$NAME" --quiet
  fi
}

# ssh_to WORKER COMMAND: runs a shell command on one worker, or on `all` at once.
ssh_to() {
  local flags=()
  $INTERNAL_IP && flags+=(--internal-ip)
  tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2" ${flags[@]+"${flags[@]}"}
}

# on_workers WORKER WORDS: calls worker.sh there; fails where it is not yet.
on_workers() {
  local worker=$1 remote
  shift
  remote=$(quoted "$@")
  ssh_to "$worker" "test -f $WORKER_SCRIPT || { echo '$NOT_SET_UP; run: tpu_pod.sh setup' >&2; exit 1; }; bash $WORKER_SCRIPT $remote"
}

# Prints one line for each worker, e.g. `worker 0: running (pid 123)`; fails if gcloud does.
worker_states() {
  local answers
  answers=$(ssh_to all "if test -f $WORKER_SCRIPT; then bash $WORKER_SCRIPT status; else echo 'worker ?: $NOT_SET_UP'; fi" \
    2>"$SCRATCH/errors") || return 1
  echo "$answers" | grep '^worker ' | sort -t ' ' -k 2 -n || true
}

# summary WORKERS LINES: what worker_states said in a word. Where one is busy, the others may be about to change.
summary() {
  local workers=$1 line lines=0 running=0 finished=0 refused=0 stopped=0 idle=0 busy=0
  while IFS= read -r line; do
    case ${line#worker *: } in
      running*) running=$((running + 1)) ;;
      busy*) busy=$((busy + 1)) ;;
      'exited (0)') finished=$((finished + 1)) ;;
      'exited (2)') refused=$((refused + 1)) ;;
      stopped*) stopped=$((stopped + 1)) ;;
      'never started' | "$NOT_SET_UP") idle=$((idle + 1)) ;;
      '') continue ;;
    esac
    lines=$((lines + 1))
  done <<<"$2"
  if [ "$lines" -lt "$workers" ]; then
    echo unknown
  elif [ "$busy" -gt 0 ]; then
    echo busy
  elif [ "$refused" = "$lines" ]; then
    echo refused # bad input is bad for all; one alone may have lost its peers
  elif [ "$finished" = "$lines" ]; then
    echo finished
  elif [ "$idle" = "$lines" ]; then
    echo idle
  elif [ $((running + finished)) = "$lines" ]; then
    echo running
  elif [ "$stopped" -gt 0 ]; then
    echo stopped
  else
    echo broken
  fi
}
