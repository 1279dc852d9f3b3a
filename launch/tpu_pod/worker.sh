#!/usr/bin/env bash
# Runs on each worker of a pod, sent there and called over ssh by tpu_pod.sh: installs, and keeps one training run.
#
#   worker.sh install                 unpacks ~/prorank-jax.tgz into ~/prorank-jax and installs the requirements
#   worker.sh start RUN_ID [ARGS]     starts `python launch/tpu_train.py ARGS`, detached
#   worker.sh status                  prints one line: `worker 0: running (pid 123)`
#   worker.sh logs LINES [follow]     prints the log, each line with the worker's number
#   worker.sh asked                   prints a checksum of the last run's ARGS
#   worker.sh reached                 prints how far the last run came, as its log tells
#   worker.sh benchmark TOPOLOGY ARGS prints how fast the run of ARGS was, beside the estimate
#   worker.sh stop SECONDS [kill]     SIGTERM, then waits for the checkpoint; `kill` ends what does not obey
#
# Exit codes: 0 done, 1 failed or refused. Never 255: gcloud takes that for a broken connection and repeats the command.
set -euo pipefail

ROOT=$HOME/prorank-jax
CHECKOUT=$ROOT/checkout
VENV=$ROOT/venv
STATE=$ROOT/state
LOG=$ROOT/run.log
PYTHON_VERSION=3.11 # what requirements.txt is pinned for; the images of v4 to v6e bring 3.10
COORDINATOR_PORT=${PRORANK_COORDINATOR_PORT:-8482}
# A mirror that does not answer one worker of many may answer it in a minute.
INSTALL_TRIES=4
INSTALL_WAIT_SECONDS=${PRORANK_INSTALL_WAIT_SECONDS:-20}
START_SECONDS=30
LOCK_SECONDS=5
BUSY='busy (setup or start)'

metadata() {
  curl --silent --show-error --fail --max-time 60 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}

worker_number() {
  if [ ! -s "$STATE/worker" ]; then
    mkdir -p "$STATE"
    metadata agent-worker-number >"$STATE/worker"
  fi
  cat "$STATE/worker"
}

say() {
  echo "worker $(worker_number): $*"
}

fail() {
  say "$*" >&2
  exit 1
}

# The lock is held by a setup, or by the supervisor and what it started, so it outlives neither them nor a reboot. Waits
# for what may pass: another's look, a start, the end of a run. A pid that it finds is that of a run that was killed.
take_lock() {
  mkdir -p "$STATE"
  exec 9>"$STATE/lock"
  case $(state) in running*) return 1 ;; esac
  flock --timeout "$LOCK_SECONDS" 9 && rm -f "$STATE/pid"
}

# Shared, so that of two who look at once neither takes the other for a run.
is_locked() {
  [ -f "$STATE/lock" ] && ! flock --shared --nonblock "$STATE/lock" true
}

refuse_while_locked() {
  case $(state) in running*) fail "a run is going on; $1" ;; esac
  fail "$BUSY; try again in a minute"
}

install() {
  take_lock || refuse_while_locked "stop it before its code is replaced"
  local archive=$HOME/prorank-jax.tgz files=$STATE/files
  mkdir -p "$CHECKOUT"
  tar -tzf "$archive" | LC_ALL=C sort >"$files.new"
  # Files of the last copy that are gone from this one; what a run wrote stays.
  if [ -f "$files" ]; then
    (cd "$CHECKOUT" && LC_ALL=C comm -23 "$files" "$files.new" | tr '\n' '\0' | xargs -0 rm -f --)
  fi
  tar -xzf "$archive" -C "$CHECKOUT"
  mv "$files.new" "$files"
  export PATH="$HOME/.local/bin:$PATH"
  local try=1
  until install_requirements; do
    [ "$try" -lt "$INSTALL_TRIES" ] || fail "could not install in $INSTALL_TRIES tries; see above"
    say "could not install (try $try of $INSTALL_TRIES); trying again in $((INSTALL_WAIT_SECONDS * try)) s" >&2
    sleep $((INSTALL_WAIT_SECONDS * try))
    try=$((try + 1))
  done
  touch "$STATE/installed"
  say "installed"
}

# All that asks the network for something. Called where bash does not stop at a failure by itself.
install_requirements() {
  if ! command -v uv >/dev/null; then
    # Newer images guard the system's Python; a user's own install of one program does not touch it.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv || return 1
  fi
  if [ ! -x "$VENV/bin/python" ]; then
    rm -rf "$VENV" # half of one is refused
    uv venv --quiet --python "$PYTHON_VERSION" "$VENV" || return 1
  fi
  (cd "$CHECKOUT" && uv pip install --quiet --python "$VENV/bin/python" -r requirements.txt -e '.[tpu,gcs]')
}

# Workers find each other as jax's own cluster detection does; one worker alone has nobody to find.
join_pod() {
  local endpoints first count
  endpoints=$(metadata worker-network-endpoints)
  first=${endpoints%%,*}
  count=$(echo "$endpoints" | tr ',' '\n' | wc -l)
  if [ "$count" -gt 1 ]; then
    # An entry is a host name, or `name:port:address`.
    export JAX_COORDINATOR_ADDRESS=${first##*:}:$COORDINATOR_PORT
    export JAX_NUM_PROCESSES=$((count)) JAX_PROCESS_ID
    JAX_PROCESS_ID=$(worker_number)
  fi
}

start() {
  local run=$1
  shift
  [ -f "$STATE/installed" ] || fail "not set up; run \`tpu_pod.sh setup\`"
  if ! take_lock; then
    # gcloud repeats a command whose connection broke after it was obeyed.
    [ "$(cat "$STATE/run" 2>/dev/null)" = "$run" ] || refuse_while_locked "stop it before you start another"
    say "started"
    return
  fi
  join_pod
  rm -f "$STATE/exit" "$STATE/stopping"
  echo "$run" >"$STATE/run"
  printf '%s\0' "$@" | cksum >"$STATE/arguments"
  {
    printf '\n=== %s %s:' "$(date -u +%FT%TZ)" "$run"
    printf ' %q' "$@"
    echo
  } >>"$LOG"
  setsid nohup bash "$CHECKOUT/launch/tpu_pod/worker.sh" supervise "$@" >>"$LOG" 2>&1 </dev/null &
  local waited=0
  until [ -s "$STATE/pid" ] || [ -f "$STATE/exit" ]; do
    [ "$waited" -lt $((START_SECONDS * 10)) ] || fail "did not start; see \`tpu_pod.sh logs\`"
    sleep 0.1
    waited=$((waited + 1))
  done
  say "started"
}

supervise() {
  cd "$CHECKOUT"
  export PYTHONUNBUFFERED=1
  "$VENV/bin/python" launch/tpu_train.py "$@" &
  echo $! >"$STATE/pid"
  local code=0
  wait $! || code=$?
  echo "=== $(date -u +%FT%TZ) exit code $code"
  echo "$code" >"$STATE/exit.new"
  mv "$STATE/exit.new" "$STATE/exit"
  rm -f "$STATE/pid"
}

state() {
  local pid
  if is_locked; then
    pid=$(cat "$STATE/pid" 2>/dev/null) || true
    if [ -n "$pid" ]; then echo "running (pid $pid)"; else echo "$BUSY"; fi
  elif [ ! -f "$STATE/installed" ]; then
    echo "not set up"
  elif [ ! -f "$STATE/run" ]; then
    echo "never started"
  elif [ ! -f "$STATE/exit" ]; then
    echo "lost (ended without an exit code)"
  elif [ -f "$STATE/stopping" ]; then
    echo "stopped ($(cat "$STATE/exit"))"
  else
    echo "exited ($(cat "$STATE/exit"))"
  fi
}

logs() {
  local mark
  mark="s/^/[worker $(worker_number)] /"
  if [ -n "${2:-}" ]; then
    touch "$LOG"
    tail -n "$1" -F "$LOG" | sed -u "$mark"
  elif [ -f "$LOG" ]; then
    tail -n "$1" "$LOG" | sed "$mark"
  else
    say "no log yet"
  fi
}

# Nothing where a script of before started the run.
asked() {
  say "$(cat "$STATE/arguments" 2>/dev/null)"
}

# The lines of the log from the last start on.
log_of_life() {
  local run
  run=$(cat "$STATE/run" 2>/dev/null) || return 1
  awk -v head=" $run:" 'index($0, "===") == 1 && index($0, head) { found = 1; next } found' "$LOG"
}

# What the log tells of the last run: the checkpoints it went on from, the last step it names (only the first worker names
# any), and whether a place out of reach ended it.
reached() {
  local life
  life=$(log_of_life) || fail "never started"
  say "$(steps_told "$life")$(outage_told "$life")"
}

# The trainer wraps long lines.
steps_told() {
  tr '\n' ' ' <<<"$1" | grep -oE 'after +step +[0-9]+|step +[0-9]+/[0-9]+' |
    awk '/after/ { print "after step " $3 } !/after/ { last = $0 } END { print last }' | tr '\n' ' '
}

outage_told() {
  case $(tail -n 20 <<<"$1") in
    *'out of reach at present'* | *'cannot be reached'* | *'hub did not give it'* | *'ir_datasets cannot read it'*)
      echo 'out of reach'
      ;;
  esac
}

# A start gets its pid, and a run that ended lets go of the lock, in a moment; a setup takes longer.
wait_while_busy() {
  local end=$((SECONDS + LOCK_SECONDS))
  while [ "$(state)" = "$BUSY" ]; do
    [ "$SECONDS" -lt "$end" ] || fail "$BUSY; try again in a minute"
    sleep 0.1
  done
}

stop() {
  local pid
  wait_while_busy
  if is_locked && pid=$(cat "$STATE/pid" 2>/dev/null); then
    touch "$STATE/stopping"
    kill -TERM "$pid" || true
    if ! flock --shared --timeout "$1" "$STATE/lock" true; then
      [ -n "${2:-}" ] || fail "still $(state) after $1 s; it goes on to its next checkpoint"
      kill -KILL "$pid" || true
      flock --shared --timeout 30 "$STATE/lock" true || fail "still $(state) after SIGKILL"
    fi
  fi
  say "$(state)"
}

benchmark() {
  if is_locked; then refuse_while_locked "wait for its end"; fi
  # The first worker tells every tenth step, and the last.
  case $(steps_told "$(log_of_life)") in
    */*) ;;
    *) say "no step was made now: what follows was measured when this output_dir was trained, perhaps on another pod;" \
      "give another --output_dir to measure again" ;;
  esac
  cd "$CHECKOUT"
  "$VENV/bin/python" launch/tpu_pod/speed.py "$@"
}

case "${1:-}" in
  install | start | supervise | logs | asked | reached | benchmark | stop) "$@" ;;
  status) say "$(state)" ;;
  *) fail "no such command: '${1:-}'" ;;
esac
