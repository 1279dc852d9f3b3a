# shellcheck shell=bash
# Whether a run that died would only die again: a traceback or too little memory costs a set-up and a compilation each
# time, and says the same.

# How the last life ended and how far it had come, where it failed by itself or a worker was killed (else 'none'), and
# how many lives in a row ended so.
LAST_END=none ALIKE=0
# SIGKILL may come from anywhere, most often from the host's out-of-memory killer: it takes more of them to be sure.
MOST_FAILURES=2 MOST_KILLS=4
# Whether any life of it went on from a checkpoint or made steps.
CAME_FORWARD=false

# how_it_ended LINES: 'failed' where nobody killed a worker of those that worker_states names, and one of them failed;
# 'killed' where SIGKILL ended one, else 'otherwise'. Ending what is left of the others stops them; SIGABRT is how jax
# ends those whose peer failed.
how_it_ended() {
  local line how=otherwise
  while IFS= read -r line; do
    case ${line#worker *: } in
      'exited (0)' | stopped*) ;;
      'exited (137)') how=killed ;;
      'exited (129)' | 'exited (130)' | 'exited (143)') how=otherwise && break ;;
      'exited ('*) [ "$how" = killed ] || how=failed ;;
      *) how=otherwise && break ;;
    esac
  done <<<"$1"
  echo "$how"
}

# Fails where lives in a row ended in the same way at the same place, going on from the same checkpoint; to be asked
# once per life, when all its workers have ended. What cannot be asked of them now counts as another end, and so does a
# place out of reach, if the run has used it before.
give_up_on_repetition() {
  local lines how reached before=$LAST_END
  LAST_END=none
  lines=$(worker_states) || return 0
  how=$(how_it_ended "$lines")
  [ "$how" != otherwise ] || return 0
  reached=$(on_workers all reached 2>"$SCRATCH/errors" | sort) || return 0
  case $reached in *step*) CAME_FORWARD=true ;; esac
  case $reached in *'out of reach'*) if $CAME_FORWARD; then return 0; fi ;; esac
  LAST_END="$how $reached"
  if [ "$LAST_END" = "$before" ]; then ALIKE=$((ALIKE + 1)); else ALIKE=1; fi
  # At the limit of restarts, that is what there is to say.
  [ "$RESTARTS" -lt "$RETRIES" ] || return 0
  if [ "$how" = failed ] && [ "$ALIKE" -ge "$MOST_FAILURES" ]; then
    fail "the run failed by itself twice in a row and came no further the second time; another restart would do the \
same. See its log above, or: tpu_pod.sh logs. Mend what failed, then repeat the command"
  fi
  if [ "$how" = killed ] && [ "$ALIKE" -ge "$MOST_KILLS" ]; then
    fail "a worker was killed (exit code 137) $MOST_KILLS times in a row at the same place: its host has too little \
memory, as it seems. Take a smaller model or collection, lower data.pseudo_queries, set lora.rank (checkpoints are \
smaller then), or take a type with more memory, then repeat the command"
  fi
}
