#!/usr/bin/env bash
# Train on several GPUs (or, without a GPU, CPU processes) of a machine:
#   tools/dist_train.sh CONFIG NUM_PROCESSES [options of tools/train.py]
# On several machines run it on each, with NNODES, NODE_RANK, MASTER_ADDR and
# PORT set. On one machine torchrun finds a free port, unless PORT is set.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG NUM_PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
TOOLS=$(dirname "$0")
exec bash "$TOOLS/torchrun.sh" "$2" \
    "$TOOLS/train.py" "$1" --launcher pytorch "${@:3}"
