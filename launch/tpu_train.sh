#!/usr/bin/env bash
# Runs one of the package's commands on every worker of a Cloud TPU VM slice.
#
#   launch/tpu_train.sh NAME ZONE COMMAND --config=configs/FILE.py [--config.field=value …]
#   launch/tpu_train.sh my-v5e us-west4-a dift --config=configs/dift_tiny.py --config.workdir=gs://…
#
# The slice must exist, and `gcloud` must be signed in. The tracked files of this checkout are copied to
# each worker and installed there with the [tpu] and [gcs] extras; the workers find each other by themselves.
# A resumable run continues when the same command is given again. The working directory of a run on
# several workers must be one that all of them see: a bucket or a mounted share.
# Set PROJECT to choose the Cloud project.
set -euo pipefail

if [[ $# -lt 4 ]]; then
  sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//' >&2
  exit 2
fi
name=$1 zone=$2 command=$3
shift 3
case $command in
  dift | rl | eval | synth | convert | bench) ;;
  *) echo "unknown command '$command': dift, rl, eval, synth, convert or bench" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."

where=(--zone "$zone" --worker all ${PROJECT:+--project "$PROJECT"})
bundle=$(mktemp --suffix .tar.gz)
trap 'rm -f "$bundle"' EXIT
git archive --format tar.gz --output "$bundle" HEAD
[[ -z $(git status --porcelain) ]] || echo "note: uncommitted changes are not copied" >&2

gcloud compute tpus tpu-vm scp "$bundle" "$name:fourd4d.tar.gz" "${where[@]}"
gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command '
  set -e
  mkdir -p fourd4d && tar -xzf fourd4d.tar.gz -C fourd4d
  python3 -m venv fourd4d/.venv
  fourd4d/.venv/bin/pip install --quiet -e "fourd4d[tpu,gcs]" \
    -f https://storage.googleapis.com/jax-releases/libtpu_releases.html'
gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command \
  "cd fourd4d && .venv/bin/python -m fourd4d.$command $(printf '%q ' "$@")"
