"""What stops a training by what it logs."""

from types import SimpleNamespace

import pytest

from trainer.engine.callbacks import ProgressCallback
from trainer.errors import Diverged


def test_a_loss_that_is_no_number_stops_a_training_in_fp16_too() -> None:
    """Its scaler leaves out steps whose gradients overflow; a loss overflows only where the model does."""
    args = SimpleNamespace(fp16=True, learning_rate=1e-4, beta=0.1)
    watch = ProgressCallback(lambda _state: None, 4)
    state = SimpleNamespace(global_step=3, max_steps=9, is_world_process_zero=True)
    with pytest.raises(Diverged, match=r"loss of step 3 .* THUMBLOOP_LEARNING_RATE=0.0001"):
        watch.on_log(args, state, None, logs={"loss": float("nan"), "grad_norm": float("nan")})
