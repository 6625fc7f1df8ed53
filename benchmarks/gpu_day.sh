#!/usr/bin/env bash
# All that this repository measures on one GPU, in one command of at most 9 minutes:
#   benchmarks/gpu_day.sh [FOLDER] [--parts NAME ...] [--rehearse] [--seconds N]
# Run again with the same folder (default: gpu-day) it goes on with the parts that are not done; FOLDER/gpu_day.json has all.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m benchmarks.gpu_day "$@"
