"""Each reference, of training and of held-out votes, is computed once in a sweep, for its first point."""

from collections import Counter
from pathlib import Path
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaModel

from tests.support.rated_files import some_rows, some_settings
from trainer.sweep.data import FileSource
from trainer.sweep.grid import Grid
from trainer.sweep.sweep import WantedSweep, run_sweep


def test_the_second_point_computes_none(tmp_path: Path, tiny_model: Path) -> None:
    adapter_on: Counter[tuple[str, bool]] = Counter()
    titles = ["before"]

    def count(module: Any, _inputs: Any) -> None:
        if isinstance(module, LlamaModel):
            layer = module.layers[0].self_attn.q_proj
            if hasattr(layer, "disable_adapters"):
                adapter_on[titles[-1].partition(":")[0], not layer.disable_adapters] += 1

    hook = register_module_forward_pre_hook(count)
    grid = Grid((0.1, 0.5), ("kto",), (1e-2,))
    wanted = WantedSweep(FileSource(some_rows(tmp_path)), grid, some_settings(tmp_path, tiny_model))
    try:
        run_sweep(wanted, progress=lambda state: titles.append(state["phase"]))
    finally:
        hook.remove()
    assert adapter_on["1 of 2", True] == adapter_on["2 of 2", True] > 12, "training, votes and their partners"
    assert adapter_on["1 of 2", False] > 6
    assert adapter_on["2 of 2", False] == 0
