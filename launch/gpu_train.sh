#!/usr/bin/env bash
# Runs one of the package's commands on all GPUs of a node, or of several.
#
#   launch/gpu_train.sh COMMAND --config=configs/FILE.py [--config.field=value …]
#   launch/gpu_train.sh dift --config=configs/dift_3b.py --config.workdir=runs/dift_3b
#
# One node: as it stands. The package is installed there with the [cuda] extra.
# Several nodes by name: HOSTS=a,b,c launch/gpu_train.sh …, from any machine that reaches them by ssh.
# Several nodes by Slurm: inside an allocation (salloc, sbatch) it starts itself with srun on each GPU;
# give srun's options in SRUN, the GPUs of a node in GPUS (8).
# All nodes see this checkout and the working directory under the same paths. A mesh over several nodes is
# one of the config's, e.g. --config.mesh=pod. When one process ends badly the others are ended too; a
# resumable run continues when the same command is given again.
# PYTHON names the interpreter (.venv/bin/python here, else python3), PORT that of the first host (8476).
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,15p' "$0" | sed 's/^# \{0,1\}//' >&2
  exit 2
fi
command=$1
shift
case $command in
  dift | rl | eval | synth | convert | bench) ;;
  *) echo "unknown command '$command': dift, rl, eval, synth, convert or bench" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  [[ ! -x .venv/bin/python ]] || PYTHON=$PWD/.venv/bin/python
fi
run=("$PYTHON" -m "fourd4d.$command" "$@")

if [[ -n ${HOSTS:-} ]]; then
  IFS=, read -ra hosts <<< "$HOSTS"
  workers=()
  trap 'kill "${workers[@]}" 2>/dev/null || true' EXIT
  for i in "${!hosts[@]}"; do
    there=$(printf '%q ' cd "$PWD")"&& "$(printf '%q ' exec env \
      JAX_COORDINATOR_ADDRESS="${hosts[0]}:${PORT:-8476}" JAX_NUM_PROCESSES="${#hosts[@]}" \
      JAX_PROCESS_ID="$i" "${run[@]}")
    # With a terminal (-tt), a command ends when its connection does.
    ssh -tt -o BatchMode=yes -o ServerAliveInterval=15 "${hosts[$i]}" "$there" < /dev/null &
    workers+=($!)
  done
  for _ in "${workers[@]}"; do
    wait -n || { code=$?; echo "one of ${HOSTS} ended with $code; the others are ended too" >&2; exit "$code"; }
  done
elif [[ -n ${SLURM_JOB_ID:-} && -z ${SLURM_PROCID:-} ]]; then
  gpus=${GPUS:-8}
  # JAX takes one device for each of Slurm's tasks.
  read -ra options <<< "${SRUN:-}"
  exec srun --ntasks-per-node="$gpus" --ntasks="$((gpus * ${SLURM_NNODES:-1}))" --kill-on-bad-exit=1 \
    "${options[@]}" "${run[@]}"
else
  exec "${run[@]}"
fi
