"""How many of a processor's threads compute a step: one, where its products are over before others are awake.

Knows sizes only. Threads wait asleep (see app/__init__.py), and waking one takes as long as a small product.
"""

from typing import Any

import torch

ALL = torch.get_num_threads()
# Of a layer's largest matrix: below so many weights reading them takes a fraction of a millisecond, and
# below so many multiplications computing with them does. Measured on SmolLM2-135M (0.9 million weights):
# 16 tokens 54 ms with one thread and 71 with two, one token 35 and 55; 256 tokens are faster with two.
SMALL_MATRIX = 4_000_000
SMALL_PRODUCT = 32_000_000


def suit(model: Any) -> None:
    """Have each pass of the model computed by as many threads as its tokens need."""
    config = model.config.get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    weights = int(config.hidden_size * wide)
    if model.device.type == "cpu" and weights < SMALL_MATRIX and ALL > 1:
        model.register_forward_pre_hook(_Choice(weights), with_kwargs=True)


class _Choice:
    """Sets the number of threads of whichever thread runs the model."""

    def __init__(self, weights: int) -> None:
        self._few = SMALL_PRODUCT // weights

    def __call__(self, _model: Any, _arguments: Any, inputs: dict[str, Any]) -> None:
        needed = 1 if inputs["input_ids"].numel() <= self._few else ALL
        if torch.get_num_threads() != needed:
            torch.set_num_threads(needed)
