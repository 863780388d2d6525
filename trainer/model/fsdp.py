"""Helpers for models sharded over processes by FSDP under `accelerate launch`."""

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
    """How accelerate was configured to shard the weights, read from the environment; None if not."""
    ways: dict[str, Way] = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
    for name, way in ways.items():
        if os.environ.get(name, "false").lower() in ("1", "true", "yes"):
            return way
    return None


def refuse_other_ways(processes: int) -> None:
    """Raise BadSetting for any sharding other than FSDP version 2 with several processes."""
    way, why = sharded_by(), None
    if way == "DeepSpeed":
        why = "use DeepSpeed, whose checkpoints no other training could go on with"
    elif way == "FSDP" and os.environ.get("FSDP_VERSION", "1") != "2":
        why = "use version 1 of FSDP"
    elif way == "FSDP" and processes == 1:
        why = "use FSDP with a single process"
    if why is not None:
        raise BadSetting(
            f"accelerate is configured to {why}; launch with --use_fsdp --fsdp_version 2 and several "
            f"--num_processes, or without. THUMBLOOP_TUNING=qlora takes less memory.",
            field="training_processes",
        )


def shard_on_processor(accelerator: Accelerator) -> None:
    """Make accelerate shard on a CPU; without a GPU it silently skips FSDP."""
    plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def gather_trained(model: Any) -> None:
    """Collect the trained weights on the first process, in CPU memory. All processes must call this.

    Afterwards the model is useful only for its trained weights.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    for name, whole in get_model_state_dict(model, options=options).items():
        assert isinstance(whole, torch.Tensor)
        path, _, last = name.rpartition(".")
        setattr(model.get_submodule(path), last, torch.nn.Parameter(whole))


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all values are finite. With sharded weights, all processes must call this at the same time."""
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in (*tensors,)]
    finite = all(bool(tensor.isfinite().all()) for tensor in own)
    return all(gather_object([finite])) if sharded_by() else finite
