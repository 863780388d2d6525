"""Makes one point of a sweep: trains for an epoch, measures on the held-out votes, maybe asks a judge."""

import gc
import logging
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft import PeftModel

from storage.settings import Settings
from trainer.adapters.tuning_modes import load_for_training, open_references
from trainer.engine import kto
from trainer.engine.callbacks import Progress
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.select import scoring, settle_engine
from trainer.errors import Diverged
from trainer.gate.held_out import HeldOut, reference_scores
from trainer.gate.measures import Evaluation
from trainer.gate.prompts import gate_prompts
from trainer.judge.ratings import rate_replies
from trainer.judge.specs import ServerSpec
from trainer.model.base_model import BaseModelSource, load_model
from trainer.sweep.data import SweepRows
from trainer.sweep.dpo import train_on_pairs
from trainer.sweep.grid import MEASURES, UNPAIRED, Point, Result
from trainer.taste.sampler import ReplySampler

log = logging.getLogger(__name__)

NO_CHECKPOINTS = 0  # an interrupted point is made again
POINT = "sampled"  # the name of a point's adapter beside the base model


@dataclass(frozen=True)
class PointMaker:
    """Makes points that share everything but their own values.

    `fingerprint` is that of the base model. Adapters are written below `folder` and then removed. A `judge`
    rates replies to the gate's prompts: those of held-out votes, then general ones.
    """

    split: SweepRows
    settings: Settings
    source: BaseModelSource
    fingerprint: str
    folder: Path
    check: Callable[[], None]
    judge: ServerSpec | None = None

    def make(self, point: Point, progress: Progress) -> Result:
        """Train and measure a point; `check` may raise Interrupted. A training that diverges is a result.

        Raises NotReady if the judge is away.
        """
        self.check()
        with TemporaryDirectory(prefix="point-", dir=self.folder) as folder:
            adapter = Path(folder) / "adapter"
            try:
                seconds = self._train(point, adapter, progress)
            except Diverged as error:
                return Result(point, str(error))
            evaluation = self._measure(adapter, progress)
            labels = [row.label for row in self.split.held_out]
            result = read_measures(point, evaluation, labels, seconds)
            if self.judge is None or result.diverged:
                return result
            return replace(result, measures={**result.measures, **self.rate(adapter, progress)})

    def rate(self, adapter: Path | None, progress: Progress) -> dict[str, float | None]:
        """The judge's rating of sampled replies with an adapter, or of the base model's. Needs a judge.

        Raises NotReady if the judge is away.
        """
        assert self.judge is not None
        gc.collect()
        adapters = {POINT: adapter} if adapter else {}

        def report(state: dict[str, object]) -> None:
            self.check()
            progress(state)

        with ReplySampler(self.source, adapters, self.settings, report) as sampler:
            prompts = gate_prompts(
                self.split.held_out,
                sampler.tokenizer,
                count=self.settings.gate_prompts,
                longest=sampler.longest_prompt,
                system_prompt=self.settings.system_prompt,
            )
            replies = sampler.sample(prompts, POINT if adapter else None)
        ratings = rate_replies(
            self.judge,
            [prompt.messages for prompt in prompts],
            [reply.text for reply in replies],
            lambda done: report({"phase": "asking the judge", "step": done, "steps": len(prompts)}),
        )
        if ratings.faults or ratings.failed:
            faults = ", ".join(f"{count} {kind}" for kind, count in ratings.faults.items())
            log.info("%s left %d replies without a rating (%s).", self.judge.name, ratings.failed, faults)
        return ratings.to_measures()

    def _train(self, point: Point, adapter: Path, progress: Progress) -> float:
        """Train and write the adapter; returns the seconds of training."""
        settings = self.settings.model_copy(
            update={
                "beta": point.beta,
                "learning_rate": point.learning_rate,
                "checkpoint_steps": NO_CHECKPOINTS,
                "report_to": [],
            }
        )
        gc.collect()  # the previous model has reference cycles; two large models may not fit
        model, tokenizer = load_for_training(self.source, settings)
        shared: dict[str, Any] = {
            "output_dir": adapter.with_name("checkpoints"),
            "progress": progress,
            "check": self.check,
        }
        if point.loss in UNPAIRED:
            model, trained = kto.train(
                model,
                tokenizer,
                self.split.training,
                weights=self.split.plan.weights,
                settings=settle_engine(settings.model_copy(update={"loss_type": point.loss}), model),
                references=self._references(),
                **shared,
            )
            seconds = trained.seconds
        else:
            model, seconds = train_on_pairs(
                model,
                tokenizer,
                self.split.pairs,
                loss=point.loss,
                settings=settings,
                references=self._references("pairs"),
                **shared,
            )
        kto.save_adapter(model, adapter, base_model=self.source.name)
        return seconds

    def _measure(self, adapter: Path, progress: Progress) -> Evaluation | None:
        """Measure on a fresh base model, as the gate does; None if nothing is held out."""
        if not self.split.held_out:
            return None
        gc.collect()
        base, _ = load_model(self.source)

        def note(done: int) -> None:
            self.check()
            progress({"phase": "measuring", "step": done, "steps": len(self.split.held_out)})

        # None of the measures used depends on β, and only KTO has a z0.
        held_out = HeldOut(
            self.split.held_out,
            loss_type="kto",
            max_length=self.settings.max_length,
            batch_size=self.settings.batch_size,
        )
        engine = settle_engine(self.settings, base).engine
        with scoring(engine, PeftModel.from_pretrained(base, adapter)) as scorer:
            reference = held_out.score(reference_scores(scorer, self._references()))
            policy = held_out.score(scorer.policy, note)
        return held_out.evaluate(policy, reference, weights=self.split.plan.weights, beta=1.0)

    def _references(self, of: str = "") -> ReferenceCache | None:
        """The cache that runs use. References computed in other shapes have their own name, `of`."""
        return open_references(self.settings.data_dir, self.source, self.fingerprint, self.settings, of=of)


def read_measures(
    point: Point, evaluation: Evaluation | None, labels: Sequence[bool], seconds: float
) -> Result:
    """The measures that rank a point, from its evaluation on rows with these labels. Pure."""
    if evaluation is None:
        return Result(point, seconds=seconds)
    if not all(map(math.isfinite, (evaluation.z0, *evaluation.rewards))):
        return Result(point, "Log-probabilities on held-out votes are not finite numbers.", seconds)
    found = {measure.name: getattr(evaluation, measure.name, None) for measure in MEASURES}
    liked = [reward for reward, up in zip(evaluation.rewards, labels, strict=True) if up]
    found["auc_standard_error"] = None if evaluation.auc is None else evaluation.auc_error
    found["liked_change"] = statistics.fmean(liked) if liked else None
    found["liked_standard_error"] = statistics.stdev(liked) / math.sqrt(len(liked)) if liked[1:] else None
    return Result(point, "", seconds, found)
