# shellcheck shell=bash
# Whether a run that died would only die again: a traceback or too little memory costs a set-up and a compilation each
# time, and says the same.

# How far the run of the last life had come when it failed by itself ('none': there is no such life).
LAST_FAILURE=none
# Whether any life of it went on from a checkpoint or made steps.
CAME_FORWARD=false

# failed_by_itself LINES: whether nobody killed a worker of those that worker_states names, and one of them failed. Ending
# what is left of the others stops them; SIGABRT is how jax ends those whose peer failed.
failed_by_itself() {
  local line failed=false
  while IFS= read -r line; do
    case ${line#worker *: } in
      'exited (0)' | stopped*) ;;
      'exited (129)' | 'exited (130)' | 'exited (137)' | 'exited (143)') return 1 ;;
      'exited ('*) failed=true ;;
      *) return 1 ;;
    esac
  done <<<"$1"
  $failed
}

# Fails where two lives in a row failed by themselves at the same place, going on from the same checkpoint; to be asked
# once per life, when all its workers have ended. What cannot be asked of them now counts as no such failure, nor does a
# place out of reach, if the run has used it before.
give_up_on_repetition() {
  local lines reached before=$LAST_FAILURE
  LAST_FAILURE=none
  lines=$(worker_states) && failed_by_itself "$lines" || return 0
  reached=$(on_workers all reached 2>"$SCRATCH/errors" | sort) || return 0
  case $reached in *step*) CAME_FORWARD=true ;; esac
  case $reached in *'out of reach'*) if $CAME_FORWARD; then return 0; fi ;; esac
  LAST_FAILURE=$reached
  # At the limit of restarts, that is what there is to say.
  if [ "$reached" = "$before" ] && [ "$RESTARTS" -lt "$RETRIES" ]; then
    fail "the run failed by itself twice in a row and came no further the second time; another restart would do the \
same. See its log above, or: tpu_pod.sh logs. Mend what failed, then repeat the command"
  fi
}
