#!/usr/bin/env bash
# PyTorch 2.9.1: layers under FSDP2 (`fully_shard`) that run first in `torch.inference_mode()` cannot run outside of it
# any more, neither under `torch.no_grad()` nor in training. The buffers that weights are gathered into are made at the
# first pass and written at each later one; made in inference mode they are inference tensors for ever. Layers that are
# not sharded have no such memory, and the other order works: who validates before the first step is hit, who trains
# first is not. fairseq2 0.8.1 validates, evaluates and loads models that are only to decode in inference mode.
#
# Installs torch into a temporary folder (several GB), runs two processes on the CPU, and fails if that changes.
# Seen with Python 3.11 on Linux:
#   not sharded: each order works
#   FSDP2, inference_mode -> no_grad: RuntimeError, "Inplace update to inference tensor outside InferenceMode ..."
#   FSDP2, inference_mode -> training: the same
#   FSDP2, no_grad -> inference_mode -> no_grad: works
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/packages" torch==2.9.1 numpy
cat > "$folder/show.py" <<'PY'
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
rank = dist.get_rank()
mesh = init_device_mesh("cpu", (2,))
wrong = 0
for sharded in (False, True):
    for order in (("inference_mode", "no_grad"), ("inference_mode", "training"), ("no_grad", "inference_mode", "no_grad")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
        if sharded:
            fully_shard(model, mesh=mesh, reshard_after_forward=True)
        found = "works"
        try:
            for mode in order:
                if mode == "training":
                    model(torch.ones(2, 8)).sum().backward()
                else:
                    with getattr(torch, mode)():
                        model(torch.ones(2, 8))
        except RuntimeError as error:
            found = f"fails in {mode}: {str(error).split('.')[0]}"
        expected = "works" if not sharded or order[0] == "no_grad" else "nference tensor"
        if rank == 0:
            print(f"torch {torch.__version__}, {'FSDP2' if sharded else 'not sharded'}, {' -> '.join(order)}: {found}")
        wrong += expected not in found
dist.barrier()
dist.destroy_process_group()
assert not wrong, "the behaviour has changed"
PY
OMP_NUM_THREADS=1 PYTHONPATH="$folder/packages" python3 -m torch.distributed.run --standalone --nproc-per-node 2 "$folder/show.py"
echo "as found: what is gathered in inference mode stays in it"
