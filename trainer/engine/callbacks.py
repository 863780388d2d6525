"""Trainer callbacks that report progress, stop a diverging training, and handle cancellation.

Integrations such as TensorBoard receive only what transformers' Trainer logs: numbers and the configuration,
no text of any chat.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    TensorBoardCallback,
    get_reporting_integration_callbacks,
)

from storage.errors import BadSetting
from trainer.errors import Diverged, Interrupted
from trainer.model.fsdp import all_finite

# A training whose gradient norm exceeds this has diverged; normal norms are below a hundred.
EXPLODED = 1e5

Progress = Callable[[dict[str, Any]], None]


def reporters(names: Sequence[str], folder: Path) -> list[Any]:
    """A callback for each integration of transformers; TensorBoard's events go into `folder`/tensorboard.

    Raises BadSetting for a name that transformers does not know or whose package is missing.
    """
    found: list[Any] = []
    for name in names:
        try:
            found.append(get_reporting_integration_callbacks([name])[0]())  # type: ignore[no-untyped-call]
        except (ValueError, RuntimeError, ImportError) as error:
            raise BadSetting(
                f"THUMBLOOP_REPORT_TO={name}: {error} Install its package, for example with "
                f"`pip install 'thumbloop[tensorboard]'`, or leave it out.",
                field="report_to",
            ) from error
        if isinstance(found[-1], TensorBoardCallback):
            found[-1].logging_dir = str(folder / "tensorboard")
    return found


class CancellationCallback(TrainerCallback):
    """Stops training at the end of a step once `check` raises Interrupted; saves first if terminated.

    If one of several processes must stop, all stop. `stopped` is then the exception for the caller to raise.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check
        self.stopped: Interrupted | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        try:
            self.check()
        except Interrupted as interrupted:
            self.stopped = interrupted
        reasons = gather_object([self.stopped and self.stopped.why])
        why = next((why for why in reasons if why), None)
        if why is not None:
            self.stopped = Interrupted(why)
            control.should_training_stop = True
            control.should_save = control.should_save or why == "terminated"


class Finished(Exception):
    """The checkpoint is that of the last step: nothing is left to train."""


class ProgressCallback(TrainerCallback):
    """Reports each step, and stops at the first gradient that is not finite.

    Raises Diverged. Raises Finished before training begins if no step is left: after a partial last epoch the
    Trainer would otherwise make an extra step.
    """

    def __init__(self, progress: Progress, rows_per_step: int) -> None:
        self.progress, self.rows_per_step = progress, rows_per_step
        self.margin: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first_step, self.began = state.global_step, time.monotonic()
        if not state.is_world_process_zero:
            self.progress = lambda _state: None
        self.progress({"phase": "training", "step": state.global_step, "steps": state.max_steps})
        if state.global_step >= state.max_steps:
            raise Finished

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.fp16:
            return  # the gradient scaler skips such a step and reduces the scale
        if not all_finite(p.grad for p in kwargs["model"].parameters() if p.grad is not None):
            raise Diverged(
                f"A gradient of step {state.global_step + 1} is not a finite number; "
                f"lower THUMBLOOP_LEARNING_RATE, or set THUMBLOOP_PRECISION=fp32."
            )

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return  # the summary after the last step
        if not math.isfinite(logs["loss"]):
            raise Diverged(
                f"The loss of step {state.global_step} is not a finite number; lower "
                f"THUMBLOOP_LEARNING_RATE={args.learning_rate:g}, or set THUMBLOOP_PRECISION=fp32."
            )
        norm = logs.get("grad_norm", 1.0)
        if not args.fp16 and (norm > EXPLODED or norm == 0):
            # The gradient is 0 once every reply's probability saturates in floating point.
            what = f"is {norm:.3g}" if norm else "is 0, because the steps before it went too far"
            raise Diverged(
                f"The gradient exploded: its norm in step {state.global_step} {what}; lower "
                f"THUMBLOOP_LEARNING_RATE={args.learning_rate:g} or THUMBLOOP_BETA={args.beta:g}."
            )
        self.margin = logs.get("rewards/margins", self.margin)  # absent if no micro-batch has both kinds
        per_step = (time.monotonic() - self.began) / (state.global_step - self.first_step)
        self.progress(
            {
                "phase": "training",
                "step": state.global_step,
                "steps": state.max_steps,
                "loss": logs["loss"],
                "margin": self.margin,
                "kl": logs.get("kl"),
                "gradient_norm": logs.get("grad_norm"),
                "rows_per_second": self.rows_per_step / per_step,
                "seconds_left": per_step * (state.max_steps - state.global_step),
            }
        )
