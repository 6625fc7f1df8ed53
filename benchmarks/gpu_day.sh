#!/usr/bin/env bash
# All that this repository measures on one GPU, in one command of at most 9 minutes:
#   benchmarks/gpu_day.sh [FOLDER] [--parts NAME ...] [--rehearse] [--seconds N]
# Run again with the same folder (default: gpu-day, where it is called) it goes on with the parts that are not done; FOLDER/gpu_day.json has all.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
# -P: a folder that is called benchmarks where the command is called is another.
exec "${PYTHON:-$repository/.venv/bin/python}" -P -m benchmarks.gpu_day "$@"
