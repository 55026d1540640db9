#!/usr/bin/env bash
# Test on several GPUs (or, without a GPU, CPU processes) of a machine:
#   tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [options of tools/test.py]
# On several machines run it on each, with NNODES, NODE_RANK, MASTER_ADDR and
# PORT set. On one machine torchrun finds a free port, unless PORT is set.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT NUM_PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
TOOLS=$(dirname "$0")
exec bash "$TOOLS/torchrun.sh" "$3" \
    "$TOOLS/test.py" "$1" "$2" --launcher pytorch "${@:4}"
