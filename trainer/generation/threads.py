"""Chooses the number of threads for each step of a small model on a CPU."""

from typing import Any

import torch

AVAILABLE_THREADS = torch.get_num_threads()
# Limits for a layer's largest matrix. With fewer weights, reading them takes a fraction of a millisecond;
# with fewer multiplications, so does the arithmetic. Waking a second thread takes as long (see
# app/__init__.py). Measured on SmolLM2-135M (0.9 million weights): 16 tokens take 54 ms with one thread and
# 71 with two, one token 35 and 55; 256 tokens are faster with two.
SMALL_MATRIX = 4_000_000
SMALL_PRODUCT = 32_000_000


# Tests train models of fewer weights, whose replies are there sooner than a second process.
TINY_MATRIX = 200_000
MOST_PROCESSES = 4  # each holds the model


def limit_threads(model: Any, available: int = AVAILABLE_THREADS) -> None:
    """Make a small model on the CPU use one thread per forward pass, unless the pass has many tokens."""
    weights = _largest_matrix(model)

    def choose(_model: Any, _arguments: Any, inputs: dict[str, Any]) -> None:
        needed = 1 if inputs["input_ids"].numel() <= SMALL_PRODUCT // weights else available
        if torch.get_num_threads() != needed:
            torch.set_num_threads(needed)  # for the thread that runs the model

    if model.device.type == "cpu" and weights < SMALL_MATRIX and available > 1:
        model.register_forward_pre_hook(choose, with_kwargs=True)


def useful_processes(model: Any, available: int = AVAILABLE_THREADS) -> int:
    """In how many processes to sample many replies: more than one where each keeps one CPU core busy."""
    small = model.device.type == "cpu" and TINY_MATRIX <= _largest_matrix(model) < SMALL_MATRIX
    return min(available, MOST_PROCESSES) if small else 1


def _largest_matrix(model: Any) -> int:
    config = model.config.get_text_config()
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int(config.hidden_size * wide)
