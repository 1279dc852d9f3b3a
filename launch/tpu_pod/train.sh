# shellcheck shell=bash
# From nothing to a finished run, through preemptions: what `tpu_pod.sh train` does.

RETRIES=20 POLL_SECONDS=60 FORCED_STOP_SECONDS=120
RESTARTS=0
# Looks and requests in a row that may fail before it is more than a bad line.
PATIENCE=5
REFUSALS=0 REFUSAL=''
# Whether this command has seen a pod of use and has not itself deleted what was left of it since.
POD_EXPECTED=false

find_pod_patiently() {
  local failures=0
  until look_up_pod; do
    failures=$((failures + 1))
    [ "$failures" -lt "$PATIENCE" ] || find_pod
    sleep "$POLL_SECONDS"
  done
  respect_deletion
}

# Where somebody deleted the pod, to create it again would make it cost money behind their back. One that was taken
# away is still there, as something suspended.
respect_deletion() {
  case $POD in
    absent | deleting)
      if $POD_EXPECTED; then fail "$NAME was deleted while it was watched; repeat the command to create it again"; fi
      ;;
    ready | waiting) POD_EXPECTED=true ;;
  esac
}

# request WHAT COMMAND: where gcloud refuses, the caller looks again and may ask again, but not for ever.
request() {
  local refusal
  if "$2" 2>"$SCRATCH/errors"; then
    REFUSALS=0
    return
  fi
  refusal=$(cat "$SCRATCH/errors")
  [ "$refusal" = "$REFUSAL" ] || note "$refusal"
  REFUSAL=$refusal REFUSALS=$((REFUSALS + 1))
  [ "$REFUSALS" -lt "$PATIENCE" ] || fail "$NAME could not be $1; see gcloud's message above"
  sleep "$POLL_SECONDS"
}

# Waits until the pod is there and usable; a spot pod that was taken away is deleted and created again.
provide_pod() {
  local shown=''
  REFUSALS=0 REFUSAL=''
  while :; do
    find_pod_patiently
    case $POD in
      ready)
        check_type
        return
        ;;
      absent)
        [ "$REFUSALS" -gt 0 ] || note "creating $NAME ($ACCELERATOR_TYPE)"
        request created create_pod
        ASSUMED_POD=ready
        LAST_END=none # another machine may well do better
        ;;
      waiting | suspending | deleting)
        [ "$POD_DETAIL" = "$shown" ] || note "$NAME is $POD_DETAIL; waiting"
        shown=$POD_DETAIL REFUSALS=0
        sleep "$POLL_SECONDS"
        ;;
      suspended)
        $SPOT || fail "$NAME is $POD_DETAIL; run: tpu_pod.sh delete, then repeat this (with --spot it is done for you)"
        if [ "$REFUSALS" = 0 ]; then
          count_restart "$NAME is $POD_DETAIL"
          note "deleting what is left of $NAME"
        fi
        POD_EXPECTED=false
        request deleted delete_pod
        ;;
      *) refuse_unusable ;;
    esac
  done
}

refuse_unusable() {
  fail "$NAME is $POD_DETAIL and will not become ready (quota? a wrong type for the zone?); \
see \`tpu_pod.sh status\`, then \`tpu_pod.sh delete\`"
}

count_restart() {
  RESTARTS=$((RESTARTS + 1))
  [ "$RESTARTS" -le "$RETRIES" ] || fail "$1; given up after $RETRIES restarts, repeat the command to go on (--retries N)"
  note "$1; restart $RESTARTS of at most $RETRIES"
}

# Watches a run until it needs something; sets OUTCOME to finished, refused, stopped, broken, preempted or idle.
watch_run() {
  local workers=$1 lines='' shown='' silent=0
  OUTCOME=unknown
  while :; do
    silent=$((silent + 1))
    if look_up_pod; then
      respect_deletion
      case $POD in
        ready)
          if lines=$(worker_states); then
            $DRY_RUN && return
            silent=0
            [ "$lines" = "$shown" ] || note "$lines"
            shown=$lines
            OUTCOME=$(summary "$workers" "$lines")
            case $OUTCOME in running | busy | unknown) ;; *) return ;; esac
          fi
          ;;
        waiting) silent=0 ;; # under repair: its processes may well come back
        *) OUTCOME=preempted && return ;;
      esac
    fi
    if [ "$silent" -ge "$PATIENCE" ]; then
      cat "$SCRATCH/errors" >&2
      fail "$NAME does not answer; the run may go on, repeat the command to watch it"
    fi
    sleep "$POLL_SECONDS"
  done
}

# What the workers say when none is busy: the end of an older run says nothing of one that somebody is starting, and a
# setup is no run.
settled_states() {
  local lines shown=''
  while :; do
    lines=$(worker_states) || {
      cat "$SCRATCH/errors" >&2
      return 1
    }
    case $lines in *': busy'*) ;; *) break ;; esac
    [ "$lines" = "$shown" ] || note "$lines; waiting"
    shown=$lines
    sleep "$POLL_SECONDS"
  done
  echo "$lines"
}

# A run of other arguments is not to be taken for this one, which would then be called finished unmade.
refuse_other_run() {
  local asked wanted
  asked=$(on_workers 0 asked 2>"$SCRATCH/errors") || return 0 # a script of before
  wanted=$(printf '%s\0' "$@" | cksum)
  case $asked in
    'worker 0: ' | "worker 0: $wanted") ;;
    *) fail "a run of other arguments is going on (tpu_pod.sh logs); stop it first, or repeat its own command to watch it" ;;
  esac
}

# Starts the run or finds it running; sets WORKERS. Fails where anything that it asks for does.
begin_run() {
  local lines
  WORKERS=$(count_workers) || return 1
  lines=$(settled_states) || return 1
  if [ "$(summary "$WORKERS" "$lines")" = running ]; then
    refuse_other_run "$@"
    note "the run goes on already; watching it"
    return
  fi
  case $lines in *': running'*) end_what_is_left || return 1 ;; esac
  set_up && start_run "$WORKERS" "$@"
}

# What was asked of a pod that was taken away meanwhile failed, and that is no failure of the run. gcloud may call such
# a pod READY for a while, but its workers no longer answer.
excuse_if_taken_away() {
  local looks=0
  find_pod_patiently
  while [ "$POD" = ready ]; do
    looks=$((looks + 1))
    if worker_states >/dev/null || [ "$looks" -ge "$PATIENCE" ]; then fail "$NAME is there, but $1; see above"; fi
    sleep "$POLL_SECONDS"
    find_pod_patiently
  done
  OUTCOME=preempted
}

# One life of the pod: sets it up, starts the run or finds it running, and watches.
run_once() {
  provide_pod
  if begin_run "$@"; then
    watch_run "$WORKERS"
  else
    excuse_if_taken_away "could not be set up and started"
  fi
}

# A worker that waits for a dead one hangs in a collective, where it cannot obey SIGTERM.
end_what_is_left() {
  note "ending the workers that are left"
  on_workers all stop "$FORCED_STOP_SECONDS" kill
}

train() {
  ASSUMED_POD=absent
  trap 'note "no longer watching; the run goes on. The same command watches it again"; exit 130' INT
  while :; do
    run_once "$@"
    $DRY_RUN && return
    case $OUTCOME in
      finished)
        note "finished; $NAME costs money until you run: tpu_pod.sh delete"
        return
        ;;
      refused)
        on_workers all logs 20 || true
        fail "the run was refused (exit code 2); its log says why"
        ;;
      stopped)
        note "stopped by \`tpu_pod.sh stop\`; the same command goes on from its checkpoint"
        exit 143
        ;;
      preempted) ;; # provide_pod counts it
      *)
        on_workers all logs 20 || true # nobody answers where the pod is being taken away
        if end_what_is_left; then
          give_up_on_repetition
          count_restart "a worker died"
        else
          excuse_if_taken_away "what is left of its run could not be ended"
        fi
        ;;
    esac
  done
}
