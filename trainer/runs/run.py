"""One training run, top to bottom: freeze, train, publish, compare, judge, deploy.

The process may die at any step. What a later attempt needs is in the run's row (frozen settings and
snapshot), in the run's folder (checkpoints) or in the version's row, so the same steps start a run and resume
it.
"""

import gc
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils.memory import clear_device_cache

from storage.db.database import Database
from storage.db.tables import ModelVersion, TrainingRun
from storage.examples.weights import Weights
from storage.registry import model_versions, training_runs
from storage.registry.artifacts import Artifacts
from storage.registry.device_lock import DeviceLock
from storage.registry.lineage import count_lost, keep_lineage
from storage.registry.set_aside import Reason, keep_set_aside
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings, frozen_settings, load_settings
from storage.settings.guard import guard_limits
from trainer.adapters.lineage import write_lineage
from trainer.adapters.parent import ParentAdapter, find_parent
from trainer.adapters.tuning_modes import open_references, refuse_full
from trainer.dataset.influence import influence
from trainer.dataset.plan import TrainingPlan, check_readiness, plan_training
from trainer.dataset.selection import is_sampled
from trainer.dataset.snapshot import Snapshot, take_snapshot
from trainer.dataset.split import Split, split_by_chat
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.trl_trainer import newest_checkpoint
from trainer.gate.compare import adapter_folder, compare
from trainer.gate.decision import Verdict
from trainer.gate.promote import promote
from trainer.gate.replies import judge_sampled
from trainer.gate.strength import scale_adapter
from trainer.launch import launcher
from trainer.launch.worker import Job
from trainer.model import base_model
from trainer.model.base_model import BaseModelSource
from trainer.runs.curve import TrainingCurve
from trainer.runs.lease import Lease
from trainer.runs.stored_checkpoints import StoredCheckpoints
from trainer.taste.features import KnownFeatures
from trainer.taste.sampled_rows import SAMPLED_FILE, SampledRows, keep_rows, kept_rows, sample_liked
from trainer.text import counted

log = logging.getLogger(__name__)

DEVICE_POLL_SECONDS = 0.1
STORE_SECONDS = 120.0  # that an artifact store may be away until the attempt ends

# Settings stored with the run, so that a later attempt uses the same ones.
FROZEN = frozen_settings("adapter", "run")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its state, a sentence for people, and the metrics."""

    state: str
    reason: str
    metrics: dict[str, Any]


class RunSteps:
    """The remaining steps of a claimed run, in order."""

    def __init__(
        self, database: Database, settings: Settings, artifacts: Artifacts, run: TrainingRun, lease: Lease
    ) -> None:
        self.database = database
        self.artifacts = artifacts
        self.run = run
        self.lease = lease
        self.phases: list[tuple[str, float]] = []  # each with its start time
        self.fingerprint = ""  # of the base model; computing it reads all weights
        self.figures: dict[str, Any] = {}  # of the planned training
        self.features: KnownFeatures = {}  # of the votes, read once for the samples and for the gate
        self.curve = TrainingCurve(run.progress.get("curve"))
        lease.kept["curve"] = list(self.curve.points)
        folder = artifacts.run_folder(run.id)
        self.checkpoints, self.sampled = folder / "checkpoints", folder / SAMPLED_FILE
        chosen = {name: value for name, value in run.settings.items() if name in FROZEN}
        self.settings = load_settings(**(settings.model_dump() | chosen))

    def carry_out(self) -> Outcome:
        """Carry out the steps. Raises Interrupted, LeaseLost, Diverged and others."""
        self._phase("loading the model")
        source = self._freeze_settings()
        self.artifacts = open_artifacts(
            *(self.settings, self.database), patience=STORE_SECONDS, check=self.lease.check
        )
        tokenizer = base_model.load_tokenizer(source)

        self._phase("reading votes")
        with self.database.read() as session:
            snapshot = take_snapshot(
                session,
                self.settings,
                moment=self.run.created_at,
                event_id=self.run.snapshot_event_id,
                deployed=(self.run.snapshot or {}).get("deployed"),
            )
            deployed = model_versions.get_version(session, snapshot.deployed)
        aside = Counter(one.reason for one in snapshot.set_aside)
        for reason, count in snapshot.left_out.items():
            what = "guard set aside" if reason in aside else "data policy left out up to"
            log.info("The %s %s: %s.", what, counted(count, "vote"), reason)
        start = find_parent(deployed, source, self.artifacts, self.settings)

        self._phase("tokenising")
        rows = split_by_chat(
            tokenizer,
            snapshot.examples,
            self.settings,
            moment=self.run.created_at,
            on_policy=snapshot.deployed,
            check=self.lease.check,
        )
        resumable = self._freeze_snapshot(snapshot, rows.held_chats, start)
        self.stored = StoredCheckpoints(self.artifacts, self.run.id, (snapshot.sha256, self.processes))
        if resumable:
            self.stored.fetch()

        refusal = self._refusal(snapshot, rows.training)
        if refusal is not None:
            figures = {"dropped": dict(rows.dropped), "dropped_rows": rows.dropped.names}
            return Outcome("skipped", refusal, figures | {"left_out": dict(snapshot.left_out)})
        self._wait_for_device()
        sampled = self._sample_rows(source, deployed, rows.training, resume=resumable)
        log.info("%s", sampled.reason)
        rows = replace(rows, training=[*rows.training, *sampled.rows])
        plan = plan_training(
            rows.training,
            rows.dropped,
            self.settings,
            held_out=len(rows.held_out),
            processes=self.processes,
        )
        for line in plan.lines():
            log.info("%s", line)
        self.figures = plan.to_metrics() | sampled.to_metrics()

        with self.database.read() as session:
            version = model_versions.version_of_run(session, self.run.id)
        if version is None:
            version = self._train_and_publish(source, start, snapshot, rows, plan, resume=resumable)
        else:
            log.info("An earlier attempt published %s already.", version.name)
        outcome = self._judge(version, source, rows.held_out, plan.weights)
        return replace(outcome, metrics=outcome.metrics | {"seconds": self._seconds()})

    def _phase(self, phase: str) -> None:
        log.info("%s", phase.capitalize())
        self.phases.append((phase, time.monotonic()))
        self.lease.report({"phase": phase})

    def _seconds(self) -> dict[str, float]:
        """Seconds that each phase took in this process."""
        ends = [*(began for _, began in self.phases[1:]), time.monotonic()]
        seconds: dict[str, float] = {}
        for (phase, began), end in zip(self.phases, ends, strict=True):
            seconds[phase] = seconds.get(phase, 0.0) + end - began
        return seconds

    def _wait_for_device(self) -> None:
        """Unless the device is shared, wait until no server uses it.

        The device stays claimed until this process ends, because only then is its memory free.
        """
        if self.settings.device_mode == "share":
            return
        self._phase("waiting for the server to make way")
        device = DeviceLock(self.settings.data_dir)
        while not device.claim():
            self.lease.check()
            time.sleep(DEVICE_POLL_SECONDS)

    def _freeze_settings(self) -> BaseModelSource:
        """Fill in machine-dependent settings and store them all with the run; prepares the base model."""
        refuse_full(self.settings)
        source = base_model.resolve(self.settings, progress=log.info)
        self.lease.check()
        earlier = self.settings.training_processes if self.run.snapshot else None
        self.processes = launcher.how_many(self.settings.training_processes, source.device)
        self.same_batches = earlier in (None, self.processes)
        if not self.same_batches:
            log.warning("Another number of processes makes other batches; training starts again.")
            self._forget_checkpoints()
        limits = asdict(guard_limits(self.settings))  # `auto` depends on the server's mode of sign-in
        self.settings = source.complete(self.settings, training_processes=self.processes, **limits)
        with self.database.write() as session:
            model_versions.ensure_base(session, source.name)
            self.run = training_runs.update_run(
                session, self.run.id, self.lease.fence, settings=self._frozen()
            )
        return source

    def _frozen(self) -> dict[str, Any]:
        return self.settings.model_dump(mode="json", include=FROZEN)

    def _freeze_snapshot(self, snapshot: Snapshot, held_chats: set[str], start: ParentAdapter | None) -> bool:
        """Store the snapshot with the run; returns whether an earlier attempt's checkpoints fit it."""
        earlier = self.run.snapshot["sha256"] if self.run.snapshot else None
        if earlier not in (None, snapshot.sha256):
            log.warning("Votes were withdrawn since the last attempt; training starts again without them.")
            self._forget_checkpoints()
        with self.database.write() as session:
            self.run = training_runs.update_run(
                session,
                self.run.id,
                self.lease.fence,
                snapshot=snapshot.to_dict(held_chats, continued_from=start.version_id if start else None),
                snapshot_event_id=snapshot.event_id,
            )
            keep_lineage(session, self.run.id, snapshot.keys)
            keep_set_aside(session, self.run.id, self._reasons(snapshot))
        return earlier == snapshot.sha256 and self.same_batches

    def _reasons(self, snapshot: Snapshot) -> Iterator[tuple[str, str, Reason]]:
        for one in snapshot.set_aside:
            yield one.example.message_id, one.example.user_id, Reason(one.reason, one.detail)

    def _forget_checkpoints(self) -> None:
        """Delete the checkpoints before the row changes: a later attempt assumes that they match the row."""
        with self.database.write() as session:
            training_runs.owned_run(session, self.run.id, self.lease.fence)
            if self.checkpoints.exists():
                shutil.rmtree(self.checkpoints)
            self.sampled.unlink(missing_ok=True)

    def _refusal(self, snapshot: Snapshot, training: list[TokenisedExample]) -> str | None:
        """Why this run must not or cannot train, or None."""
        readiness = check_readiness(
            ups=snapshot.ups,
            downs=snapshot.downs,
            voters=snapshot.voters,
            trainable_rows=len(training),
            settings=self.settings,
        )
        log.info("%s", readiness.reason)
        if not readiness.ready and not self.run.force:
            return readiness.reason
        ups = sum(row.label for row in training)
        downs = len(training) - ups
        if ups and downs:
            return None
        forced = ", even if forced" if self.run.force else ""
        return (
            f"There is nothing to learn from{forced}: of the "
            f"{counted(len(snapshot.examples), 'vote')} {counted(ups, 'thumb')} up "
            f"and {counted(downs, 'thumb')} down can be trained on, and KTO needs both kinds."
        )

    def _sample_rows(
        self, source: BaseModelSource, deployed: ModelVersion, votes: list[TokenisedExample], *, resume: bool
    ) -> SampledRows:
        """Liked rows beyond the votes, those of an earlier attempt if it is resumed.

        A model that cannot reply is still trained, on the votes alone.
        """
        if not self.settings.sampled_prompts or self.settings.engine == "trl":
            return SampledRows([], 0, 0, "No replies are sampled to learn from.")
        if resume and (kept := kept_rows(self.sampled, votes)):
            return kept
        self._phase("sampling replies to learn from")
        folder = adapter_folder(deployed, self.artifacts)
        try:
            found = sample_liked(
                source, folder, votes, settings=self.settings, report=self._report, known=self.features
            )
        except (RuntimeError, ValueError) as error:
            log.warning("No replies could be sampled.", exc_info=error)
            found = SampledRows([], 0, 0, f"No replies were sampled to learn from ({error}).")
        keep_rows(self.sampled, found)
        clear_device_cache(garbage_collection=True)  # two large models may not fit
        return found

    def _report(self, state: dict[str, object]) -> None:
        self.lease.check()
        self.lease.report(state)

    def _train_and_publish(
        self,
        source: BaseModelSource,
        start: ParentAdapter | None,
        snapshot: Snapshot,
        split: Split,
        plan: TrainingPlan,
        *,
        resume: bool,
    ) -> ModelVersion:
        rows = split.training
        newest = newest_checkpoint(self.checkpoints) if resume else None
        log.info("%s.", f"Resuming from {newest.name}" if newest else "Training from the start")
        rated = [row for row in rows if not is_sampled(row.example)]
        self.figures["influence"] = influence(rated)
        staging = self.artifacts.staging(self.run.id)
        job = Job(
            *(source, start, self.settings, rows, plan.weights),
            *(self.checkpoints, staging, resume, self._references(source, start)),
        )
        with self.stored:
            result = launcher.train(
                job, processes=plan.processes, progress=self._report_step, check=self.lease.check
            )
        log.info(
            "Trained %s in %.0f s, %.2f s a row, at most %.1f GiB of memory.",
            *(counted(result.steps, "step"), result.seconds, result.seconds_per_row),
            result.peak_memory / 2**30,
        )
        replies = self._sample_replies(source, start, split, staging)
        self._phase("publishing")
        training = asdict(result) | {"strength": replies["strength"] if replies else 1.0}
        write_lineage(
            staging,
            origin={
                "run_id": self.run.id,
                "snapshot": {"event_id": snapshot.event_id, "sha256": snapshot.sha256},
                "left_out": dict(snapshot.left_out),
                "message_ids": [row.example.message_id for row in rated],
            },
            settings=self._frozen(),
            rows=rows,
            weights=plan.weights,
            training=training,
            start=start,
        )
        published = self.artifacts.seal(self.run.id)  # may hash gigabytes: not while SQLite's lock is held
        # One transaction around the rename: no other trainer can claim the run between check and rename.
        with self.database.write() as session:
            training_runs.owned_run(session, self.run.id, self.lease.fence)
            self.artifacts.publish(self.run.id)
            version = model_versions.publish_version(
                session,
                self.run.id,
                self.lease.fence,
                published,
                base_model=source.name,
                metrics={
                    "training": training,
                    **self.figures,
                    "left_out": dict(snapshot.left_out),
                    "replies": replies,
                },
                parent_id=start.version_id if start else None,
            )
            count_lost(session, version)  # votes withdrawn during the training
        log.info("Published %s.", version.name)
        return version

    def _sample_replies(
        self, source: BaseModelSource, start: ParentAdapter | None, split: Split, staging: Path
    ) -> dict[str, Any] | None:
        """Sample replies of the new adapter, scale it to the strength that they suggest, and judge them.

        Returns the verdict and the figures for the version's metrics, or None if nothing is sampled.
        """
        if not self.settings.gate_prompts:
            return None
        self._phase("sampling replies")
        gc.collect()  # the trained model has reference cycles; two large models may not fit
        with self.database.read() as session:
            deployed = model_versions.deployed_version(session)

        verdict, strength = judge_sampled(
            source,
            staging,
            adapter_folder(deployed, self.artifacts),
            # An adapter that continues another cannot be scaled: at 0 it would be the base model.
            strengths=[1.0] if start else self.settings.strengths,
            votes=[*split.training, *split.held_out],
            held_out=split.held_out,
            settings=self.settings,
            report=self._report,
            known=self.features,
        )
        log.info("Replies: %s", verdict.reason)
        if strength not in (0.0, 1.0):
            scale_adapter(staging, strength)
        return {
            "outcome": verdict.outcome,
            "reason": verdict.reason,
            "strength": strength or 1.0,
            "compared_with": deployed.id,
            **verdict.measures,
        }

    def _references(self, source: BaseModelSource, start: ParentAdapter | None) -> ReferenceCache | None:
        """Cached references of the base model, or of the adapter that is continued."""
        self.fingerprint = self.fingerprint or base_model.fingerprint(source)
        of = start.sha256 if start else ""
        return open_references(self.settings.data_dir, source, self.fingerprint, self.settings, of=of)

    def _report_step(self, state: dict[str, Any]) -> None:
        if "expected_seconds" in state:
            self.phases.append(("training", time.monotonic()))
            self.figures["plan"]["expected_seconds"] = state["expected_seconds"]
        if "loss" in state:
            log.info(
                "Step %d of %d: loss %.4f, reward margin %s, %.2f rows/s, %.0f s left",
                *(state["step"], state["steps"], state["loss"]),
                "unknown" if state["margin"] is None else f"{state['margin']:.4f}",
                *(state["rows_per_second"], state["seconds_left"]),
            )
            self.curve.add(state)
            self.lease.kept["curve"] = list(self.curve.points)  # a thread reads it
        self.lease.note({"plan": self.figures["plan"]} | state)

    def _judge(
        self,
        version: ModelVersion,
        source: BaseModelSource,
        held_out: list[TokenisedExample],
        weights: Weights,
    ) -> Outcome:
        if version.state != "candidate":  # decided in an earlier attempt
            return Outcome(
                "succeeded", f"{version.name} is {version.state}. {version.reason}", version.metrics
            )
        self._phase("evaluating")
        gc.collect()  # the trained model has reference cycles; two large models may not fit
        with self.database.read() as session:
            deployed = model_versions.deployed_version(session)
        verdict = compare(
            *(version, deployed, held_out),
            source=source,
            artifacts=self.artifacts,
            weights=weights,
            settings=self.settings,
            references=self._references(source, None),
            report=self.lease.report,
        )
        self.lease.check()
        replies = version.metrics.get("replies")
        if replies and verdict.measures["finite"]:
            verdict = Verdict(replies["outcome"], replies["reason"], verdict.measures)
            with self.database.read() as session:
                deployed = model_versions.get_version(session, replies["compared_with"])
        log.info("Gate: %s. %s", verdict.outcome.replace("_", " "), verdict.reason)
        metrics = {
            **version.metrics,
            **verdict.measures,
            "outcome": verdict.outcome,
            "compared_with": deployed.name,
        }
        self._phase("deciding")
        with self.database.write() as session:
            training_runs.owned_run(session, self.run.id, self.lease.fence)
            reason = promote(
                session,
                version.id,
                verdict,
                compared_with=deployed,
                metrics=metrics,
                auto_deploy=self.settings.auto_deploy,
                canary_share=self.settings.gate_canary_share,
            )
        return Outcome("succeeded", reason, metrics)
