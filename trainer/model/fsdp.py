"""Weights that are spread over the processes of a training by FSDP, as `accelerate launch` was told to.

Knows models, accelerate and what its launcher leaves in the environment; no rows and no run.
"""

import os
from collections.abc import Iterable
from typing import Any, Literal

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType, gather_object
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

from storage.errors import BadSetting

Way = Literal["FSDP", "DeepSpeed"]


def sharded_by() -> Way | None:
    """What accelerate was told to spread the weights over processes with, if anything."""
    ways: dict[str, Way] = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
    for name, way in ways.items():
        if os.environ.get(name, "false").lower() in ("1", "true", "yes"):
            return way
    return None


def refuse_other_ways(processes: int) -> None:
    """Raises BadSetting for whatever is not version 2 of FSDP in several processes."""
    way, why = sharded_by(), None
    if way == "DeepSpeed":
        why = "use DeepSpeed, whose checkpoints no other training could go on with"
    elif way == "FSDP" and os.environ.get("FSDP_VERSION", "1") != "2":
        why = "use version 1 of FSDP"
    elif way == "FSDP" and processes == 1:
        why = "use FSDP with a single process"
    if why is not None:
        raise BadSetting(
            f"accelerate was told to {why}; launch with --use_fsdp --fsdp_version 2 and several "
            f"--num_processes, or without. THUMBLOOP_TUNING=qlora takes less memory.",
            field="training_processes",
        )


def shard_on_processor(accelerator: Accelerator) -> None:
    """Let it shard without a GPU, too: where there is none it leaves FSDP out, and says nothing."""
    plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def gather_trained(model: Any) -> None:
    """Put what was trained back together; only the first process has it whole then, outside of any GPU.

    To be called by all processes. The model is of no use any more but for its trained weights.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    for name, whole in get_model_state_dict(model, options=options).items():
        assert isinstance(whole, torch.Tensor)
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, torch.nn.Parameter(whole))


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether they are. If other processes have parts of them, those must ask at the same time."""
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in (*tensors,)]
    finite = all(bool(tensor.isfinite().all()) for tensor in own)
    return all(gather_object([finite])) if sharded_by() else finite
