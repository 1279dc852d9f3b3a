# shellcheck shell=bash
# The one measurement that needs a real pod: a short run's speed beside the estimate made without one.

BENCHMARK_STEPS=30

# Before anything is done: the measurement is of one run.
check_one_stage() {
  local before='' word
  for word in "$@"; do
    case "$before $word" in
      *' --stage=both' | '--stage both') bad_input "--stage both: benchmark measures one run; give --stage 1 or --stage 2" ;;
    esac
    before=$word
  done
}

benchmark() {
  local chip shape
  case $ACCELERATOR_TYPE in v5litepod-*) chip=v5e ;; *) chip=${ACCELERATOR_TYPE%%-*} ;; esac
  train --train.steps "$BENCHMARK_STEPS" "$@"
  shape=$(describe tpu-vm acceleratorConfig.topology 4x4) || fail "$(cat "$SCRATCH/errors")"
  on_workers 0 benchmark "$chip:$shape" --train.steps "$BENCHMARK_STEPS" "$@"
}
