#!/usr/bin/env bash
# Trains on a Cloud TPU pod: `launch/tpu_pod.sh COMMAND [flags] [-- ARGS]`, see --help. Runs where gcloud is.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(dirname "$HERE")
# shellcheck source=launch/tpu_pod/settings.sh
. "$HERE/tpu_pod/settings.sh"
# shellcheck source=launch/tpu_pod/gcloud.sh
. "$HERE/tpu_pod/gcloud.sh"
# shellcheck source=launch/tpu_pod/repetition.sh
. "$HERE/tpu_pod/repetition.sh"
# shellcheck source=launch/tpu_pod/train.sh
. "$HERE/tpu_pod/train.sh"
# shellcheck source=launch/tpu_pod/benchmark.sh
. "$HERE/tpu_pod/benchmark.sh"

WORKER=all LINES_SHOWN=40 FOLLOW='' STOP_SECONDS=600

usage() {
  cat <<'USAGE'
usage: launch/tpu_pod.sh COMMAND [flags] [-- ARGS]

  train   -- ARGS   creates the pod if there is none, waits for it, installs, runs `python launch/tpu_train.py ARGS` on
                    all workers and watches; a spot pod that is taken away is created again and the run resumed;
                    a run that fails by itself twice at the same place is given up
  benchmark -- ARGS trains 30 steps with ARGS as `train` does, then prints the tokens a second and those of the estimate
  create            asks for the pod (a queued resource; --plain: a TPU VM at once or not at all)
  setup             copies this checkout to all workers and installs its requirements
  run     -- ARGS   starts `python launch/tpu_train.py ARGS` on all workers, detached
  status            the pod's state and that of each worker's run
  logs              the last lines of the workers' logs (--worker N, --lines N, --follow)
  stop              SIGTERM to the run on all workers; waits for the checkpoint
  ssh     [-- CMD]  a shell on a worker (--worker 0), or one command on it or on all (--worker all)
  delete            deletes the pod and all that is on its disks

settings, also as KEY=VALUE lines of launch/tpu_pod.env (see launch/tpu_pod.env.example; --env FILE: another file):
  --project ID  --zone ZONE  --name NAME  --accelerator TYPE  --runtime VERSION  --spot  --plain
  --service-account EMAIL  --network NAME  --subnetwork NAME  --internal-ip  --shared-folder PATH

  --dry-run         prints the commands, ready to paste, and runs none
  --retries N       train: restarts before it gives up (20)
  --poll SECONDS    train: between two looks (60)
  --stop-seconds N  stop: how long it waits (600); train: for what is left when a worker died, then SIGKILL (120)
Every command may be repeated. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 stopped.
USAGE
}

whole_number() {
  matches "$2" '^[0-9]{1,7}$' || bad_input "$1 '$2' cannot be; give a whole number"
  echo $((10#$2))
}

# Reads flags; sets ENV_FILE, the settings given as flags (FLAGS) and what stands behind -- (ARGS).
read_flags() {
  ENV_FILE='' FLAGS=() ARGS=()
  local flag
  while [ $# -gt 0 ]; do
    flag=$1
    shift
    case $flag in
      --dry-run) DRY_RUN=true && continue ;;
      --spot) FLAGS+=(SPOT true) && continue ;;
      --plain) FLAGS+=(PLAIN true) && continue ;;
      --internal-ip) FLAGS+=(INTERNAL_IP true) && continue ;;
      --follow) FOLLOW=follow && continue ;;
      --)
        ARGS=("$@")
        return
        ;;
      --env | --project | --zone | --name | --accelerator | --runtime | --service-account | --network | --subnetwork | \
        --shared-folder | --worker | --lines | --retries | --poll | --stop-seconds) ;;
      *) bad_input "'$flag' is no flag; arguments of tpu_train.py stand behind --, see --help" ;;
    esac
    [ $# -gt 0 ] || bad_input "$flag has no value; write $flag VALUE"
    case $flag in
      --env) ENV_FILE=$1 ;;
      --project) FLAGS+=(PROJECT "$1") ;;
      --zone) FLAGS+=(ZONE "$1") ;;
      --name) FLAGS+=(NAME "$1") ;;
      --accelerator) FLAGS+=(ACCELERATOR_TYPE "$1") ;;
      --runtime) FLAGS+=(RUNTIME_VERSION "$1") ;;
      --service-account) FLAGS+=(SERVICE_ACCOUNT "$1") ;;
      --network) FLAGS+=(NETWORK "$1") ;;
      --subnetwork) FLAGS+=(SUBNETWORK "$1") ;;
      --shared-folder) FLAGS+=(SHARED_FOLDER "$1") ;;
      --worker)
        matches "$1" '^(all|[0-9]{1,4})$' || bad_input "--worker '$1' cannot be; give all or a number"
        WORKER=$1
        ;;
      --lines) LINES_SHOWN=$(whole_number --lines "$1") ;;
      --retries) RETRIES=$(whole_number --retries "$1") ;;
      --poll) POLL_SECONDS=$(whole_number --poll "$1") ;;
      --stop-seconds)
        STOP_SECONDS=$(whole_number --stop-seconds "$1")
        FORCED_STOP_SECONDS=$STOP_SECONDS
        ;;
    esac
    shift
  done
}

settle() {
  local default=$HERE/tpu_pod.env
  if [ -n "$ENV_FILE" ]; then read_settings "$ENV_FILE"; elif [ -f "$default" ]; then read_settings "$default"; fi
  local rest=(${FLAGS[@]+"${FLAGS[@]}"})
  while [ ${#rest[@]} -gt 0 ]; do
    set_setting "${rest[0]}" "${rest[1]}" "$(flag_of "${rest[0]}")"
    rest=(${rest[@]+"${rest[@]:2}"})
  done
  check_settings
}

need_ready() {
  find_pod
  case $POD in
    ready) ;;
    absent) fail "there is no $NAME in $ZONE; run: tpu_pod.sh create" ;;
    waiting) fail "$NAME is $POD_DETAIL; wait until \`tpu_pod.sh status\` says READY" ;;
    suspended) fail "$NAME is $POD_DETAIL: it was taken away; run: tpu_pod.sh delete, then create" ;;
    suspending | deleting) fail "$NAME is $POD_DETAIL; wait until it is gone, then run: tpu_pod.sh create" ;;
    *) refuse_unusable ;;
  esac
}

create() {
  ASSUMED_POD=absent
  find_pod
  case $POD in
    absent) create_pod ;;
    ready | waiting)
      check_type
      note "$NAME exists already: $POD_DETAIL"
      ;;
    *) need_ready ;;
  esac
}

set_up() {
  local archive=$SCRATCH/prorank-jax.tgz flags=() gone
  $DRY_RUN && archive=${TMPDIR:-/tmp}/prorank-jax.tgz # one that is still there when the commands are pasted
  gone=$(git -C "$REPOSITORY" ls-files --deleted) || fail "$REPOSITORY is no git checkout; setup copies what git lists"
  [ -z "$gone" ] || fail "git lists ${gone%%$'\n'*}, which is not there; restore it, or commit that it is gone"
  $INTERNAL_IP && flags+=(--internal-ip)
  # Chained: where a caller asks whether all this worked, a failure would not end it.
  # shellcheck disable=SC2016 # the inner shell expands them, whatever characters are in the paths
  act bash -o pipefail -c 'git -C "$1" ls-files -z --cached --others --exclude-standard | tar -C "$1" --null -T - -czf "$2"' \
    pack "$REPOSITORY" "$archive" &&
    tpus tpu-vm scp "$archive" "$NAME:prorank-jax.tgz" --worker=all ${flags[@]+"${flags[@]}"} &&
    ssh_to all "mkdir -p prorank-jax/bootstrap && tar -xzf prorank-jax.tgz -C prorank-jax/bootstrap launch/tpu_pod/worker.sh && \
bash prorank-jax/bootstrap/launch/tpu_pod/worker.sh install"
}

# Two lives may begin in one second, and each needs a name of its own: its log is found by it.
LIVES=0

# start_run WORKERS ARGS
start_run() {
  if [ "$1" -gt 1 ]; then check_output_dir "$NAME has $1 workers" "${@:2}"; fi
  shift
  LIVES=$((LIVES + 1))
  on_workers all start "$(date -u +%Y%m%dT%H%M%SZ)-$((1000 * $$ + LIVES))" "$@"
}

# Before anything is done: what is known without asking.
check_outlives() {
  [ $# -gt 0 ] || bad_input "nothing to run; write: -- --stage 1 --config FILE.yaml --output_dir gs://BUCKET/FOLDER"
  if has_many_workers; then check_output_dir "$ACCELERATOR_TYPE has more than one worker" "$@"; fi
  if $SPOT; then check_output_dir "the disk of a spot pod goes when it is taken away" "$@"; fi
}

run() {
  local workers lines
  need_ready
  workers=$(count_workers)
  lines=$(worker_states) || fail "the workers of $NAME do not answer: $(cat "$SCRATCH/errors")"
  case $lines in
    *': running'*) fail "a run is going on; see tpu_pod.sh status, or run: tpu_pod.sh stop" ;;
    *': busy'*) fail "a setup or a start is going on; try again in a minute" ;;
    *"$NOT_SET_UP"*) fail "not every worker is set up; run: tpu_pod.sh setup" ;;
  esac
  start_run "$workers" "$@"
}

status() {
  find_pod
  $DRY_RUN || echo "$NAME: $POD_DETAIL${POD_TYPE:+, $POD_TYPE}"
  if [ "$POD" = ready ]; then
    worker_states || fail "the workers of $NAME do not answer: $(cat "$SCRATCH/errors")"
  fi
}

shell() {
  [ "$WORKER" != all ] || [ $# -gt 0 ] || WORKER=0
  need_ready
  if [ $# -gt 0 ]; then
    ssh_to "$WORKER" "$(quoted "$@")"
  else
    local flags=()
    $INTERNAL_IP && flags+=(--internal-ip)
    tpus tpu-vm ssh "$NAME" --worker="$WORKER" ${flags[@]+"${flags[@]}"}
  fi
}

delete() {
  find_pod
  case $POD in
    absent) note "there is no $NAME in $ZONE" ;;
    deleting) note "$NAME is being deleted already" ;;
    *) delete_pod ;;
  esac
}

main() {
  local command=${1:-}
  [ $# -eq 0 ] || shift
  case $command in
    -h | --help) usage && return ;;
    create | setup | run | train | benchmark | status | logs | stop | ssh | delete) ;;
    *) bad_input "'$command' is no command; see --help" ;;
  esac
  read_flags "$@"
  settle
  SCRATCH=$(mktemp -d)
  trap 'rm -rf "$SCRATCH"' EXIT
  exec 3>&1
  case $command in run | train | benchmark) check_outlives ${ARGS[@]+"${ARGS[@]}"} ;; esac
  if [ "$command" = benchmark ]; then check_one_stage "${ARGS[@]}"; fi
  check_gcloud
  case $command in
    create | status | delete) "$command" ;;
    run | train | benchmark) "$command" "${ARGS[@]}" ;;
    ssh) shell ${ARGS[@]+"${ARGS[@]}"} ;;
    *)
      need_ready
      case $command in
        setup) set_up ;;
        logs) on_workers "$WORKER" logs "$LINES_SHOWN" ${FOLLOW:+follow} ;;
        stop) on_workers all stop "$STOP_SECONDS" ;;
      esac
      ;;
  esac
}

main "$@"
