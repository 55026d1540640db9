#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh have in common:
#   tools/torchrun.sh NUM_PROCESSES SCRIPT [arguments of the script]
# On several machines run it on each, with NNODES, NODE_RANK, MASTER_ADDR and
# PORT set. On one machine torchrun finds a free port, unless PORT is set.
set -euo pipefail

NNODES=${NNODES:-1}
RENDEZVOUS=(--standalone)
if [ "$NNODES" -gt 1 ] || [ -n "${PORT:-}" ]; then
    RENDEZVOUS=(
        --node_rank="${NODE_RANK:-0}"
        --master_addr="${MASTER_ADDR:-127.0.0.1}"
        --master_port="${PORT:-29500}"
    )
fi

# torchrun, less its page of traceback where a process has said what is wrong.
TORCHRUN='
import sys
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
try:
    main()
except ChildFailedError as error:
    sys.exit(f"exit status {error.get_first_failure()[1].exitcode}")
'
exec "${PYTHON:-python}" -c "$TORCHRUN" \
    --nnodes="$NNODES" --nproc_per_node="$1" "${RENDEZVOUS[@]}" "${@:2}"
