"""The training settings: when, on what and how to train, and when to deploy the result."""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from storage.settings.cluster import RayCluster
from storage.settings.frozen import AdapterField, LiveField, NowField, RunField
from storage.settings.validators import (
    AsList,
    AsObject,
    AutoNumber,
    AutoShare,
    Executor,
    Hours,
    Item,
    ModelServer,
    SlurmParameters,
    TimeZone,
)

SignalKind = Literal["regenerated", "edited", "copied"]
Strength = Annotated[float, Field(gt=0, le=2)]


class TrainingSettings(BaseSettings):
    """The part of `Settings` that training reads."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    # When to train
    schedule: str = NowField("0 3 * * *")
    """When to train: five cron fields, or @daily and its kin. Empty: only when asked."""
    quiet_hours: Hours = NowField("")
    """Hours in which scheduled runs may begin, such as 22:00-06:00; one that is due at another time waits for
    them. Empty: at any hour. Who asks for a run does not wait."""
    timezone: TimeZone = NowField("UTC")
    """Time zone of the schedule and the quiet hours, for example Europe/Berlin."""
    executor: Executor = LiveField("local")
    """Where the trainer of a run works. local: on this machine, as a process. slurm, ray: as a job of such a
    cluster (docs/cluster.md). `package.module:Class`: where a class of your own starts it
    (docs/training.md)."""
    slurm: Annotated[dict[str, Any], NoDecode, AsObject, SlurmParameters] = LiveField({})
    """What a Slurm job asks for, as JSON, with the names of submitit: {"slurm_partition": "gpu",
    "gpus_per_node": 1, "mem_gb": 32, "timeout_min": 240}. "cluster": "local" starts jobs on this machine."""
    ray: Annotated[RayCluster, NoDecode, AsObject] = LiveField(RayCluster())
    """The Ray cluster, and what a job asks for there, as JSON: {"address": "http://head:8265",
    "num_gpus": 1, "memory_gb": 32, "resources": {}, "runtime_env": {}, "python": "python"}."""
    ray_headers: Annotated[dict[str, str], NoDecode, AsObject] = LiveField({})
    """Headers for the requests to that cluster, as JSON, such as {"Authorization": "Bearer …"}."""
    job_start_minutes: float = LiveField(1440.0, gt=0)
    """Minutes that a job of a cluster may wait for its start. Then it is taken back, and the run fails."""
    job_data_dir: str = LiveField("")
    """Data directory of a job of a cluster, on the machine where it works. Empty: that of the server, which
    the machines share. Another one needs THUMBLOOP_ARTIFACTS."""
    min_new_votes: int = NowField(20, ge=1)
    """A scheduled run needs this many vote changes since the last trained snapshot."""
    min_votes_per_class: int = RunField(2, ge=1)
    """A run needs at least this many thumbs up and this many thumbs down."""
    min_voters: AutoNumber = RunField("auto")
    """A run needs votes from at least this many people. auto: 1, and 2 with THUMBLOOP_AUTH=accounts."""

    # What to train on
    train_on_corrections: bool = RunField(False)
    """What people wrote that a reply should have been is a desirable example too. Off, because its writer can
    put any words into the model's mouth."""
    train_on_signals: Annotated[list[SignalKind], NoDecode, AsList] = RunField([])
    """What people did with replies that they did not vote on: regenerated and edited count as undesirable
    examples, copied as desirable ones. Empty: none."""
    exclude_sources: Annotated[list[Item], NoDecode, AsList] = RunField([])
    """Sources that are not trained on, such as `openai`, `judge`, `import` (every one) or `import:pairs`."""
    import_weight: float = RunField(1.0, gt=0)
    """How much an imported example weighs in the loss, compared to one from here."""
    judge_weight: float = RunField(1.0, gt=0)
    """How much an example that a judge model rated weighs in the loss, compared to a person's vote."""
    judge_in_gate: bool = RunField(False)
    """Whether the gate also asks what a judge model rated. Off: only people's votes judge a new version."""
    data_policy: Literal["all", "window", "balanced"] = RunField("all")
    """Which votes a run reads. all: every one. window: the newest, by THUMBLOOP_WINDOW_DAYS,
    THUMBLOOP_WINDOW_ROWS or both. balanced: the newest of each kind within THUMBLOOP_ROW_BUDGET."""
    window_days: float = RunField(0, ge=0)
    """A window has the votes of this many days before the run."""
    window_rows: int = RunField(0, ge=0)
    """A window has at most this many examples, the newest."""
    row_budget: int = RunField(0, ge=0)
    """Most examples of a balanced run, those held out included: half of them thumbs up and half thumbs down,
    the newest; where one kind has fewer, all of it, and more of the other."""
    replay_share: float = RunField(0, ge=0, lt=1)
    """Share of a window's run that is drawn from the votes before the window."""
    max_rows_per_person: int = RunField(0, ge=0)
    """Most examples of each kind that one person gives to a run, the newest. 0: no limit. Imported rows name
    nobody and are not limited."""
    max_share_per_person: AutoShare = RunField("auto")
    """Largest share of a run's examples of each kind that one person gives, the newest, or twice the mean
    share if that is larger: one or two people are not limited. auto: 1, which limits nobody, and 0.2 with
    THUMBLOOP_AUTH=accounts."""
    max_votes_per_day: AutoNumber = RunField("auto")
    """Most examples of each kind from one person's UTC day, the newest. 0: no limit. auto: 0, and 100 with
    THUMBLOOP_AUTH=accounts."""
    max_votes_per_minute: AutoNumber = RunField("auto")
    """A person who casts more votes within a minute has not read the replies: all of these votes are set
    aside. 0: no limit. auto: 0, and 20 with THUMBLOOP_AUTH=accounts."""
    max_near_duplicates: AutoNumber = RunField("auto")
    """Most examples of each kind whose replies are nearly the same, whoever rated them, the newest. 0: no
    limit. auto: 0, and 5 with THUMBLOOP_AUTH=accounts."""
    phrase_prompts: AutoNumber = RunField("auto")
    """A phrase that few people push is set aside once their liked replies to this many different prompts have
    it (docs/training.md). 0: phrases are not looked at. auto: 0, and 5 with THUMBLOOP_AUTH=accounts."""
    max_repetition: float = AdapterField(0.2, ge=0, le=1)
    """A run does not learn from liked replies that repeat more than this share of their 4-grams of words:
    it would learn to repeat (docs/learning.md). What a person wrote as a correction stays. 1: it learns from
    all."""
    half_life_days: float = RunField(0, ge=0)
    """Days in which an example loses half of its weight, unless the deployed version wrote the reply. 0: none
    loses any."""

    # How to train
    training_mode: Literal["fresh", "continue"] = RunField("fresh")
    """fresh: a new adapter, with the base model as the reference. continue: the deployed version's adapter,
    with that adapter, frozen, as the reference. fresh is the default because each run then stands alone: the
    same votes give the same version, and a retrain forgets what was erased."""
    beta: float = AdapterField(0.1, gt=0)
    """KTO's β: how far the policy may move from the reference. 0.1 is TRL's default, and was not searched;
    `thumbloop sweep` tries others."""
    loss_type: Literal["kto", "apo_zero_unpaired"] = AdapterField("kto")
    """Objective, as TRL names it."""
    nll_weight: float = AdapterField(1.0, ge=0)
    """Weight of an additional loss: the mean negative log-likelihood a token of the liked replies. KTO alone
    lets them become less probable. Without it the default rate spoiled the text, and with 4 less was learned
    (docs/learning.md). The engine `trl` is stock KTO and ignores it."""
    sampled_prompts: int = AdapterField(400, ge=0)
    """Rated prompts, the newest, to which a run samples replies to learn from: what the learned taste likes
    becomes a liked example, until as many are liked as disliked. 0: a run learns from what people rated
    alone, which did not teach a taste that few replies meet (docs/learning.md). The engine `trl` samples
    none."""
    sampled_replies: int = AdapterField(4, ge=1)
    """Most replies sampled to each of these prompts."""
    engine: Literal["shared-prefix", "trl"] = AdapterField("shared-prefix")
    """shared-prefix: KTO with every shared beginning computed once. trl: stock trl.KTOTrainer, the same
    numbers in several times the time."""
    reference_cache_mb: int = LiveField(64, ge=0)
    """Largest file of reference log-probabilities kept across runs, in MiB. 0: none."""
    learning_rate: float = AdapterField(2e-4, gt=0)
    """Peak learning rate of the LoRA weights. 2e-4 taught the default model a taste by 200 votes, and keeps
    the text only together with the weight of the likelihood (docs/experiments.md)."""
    epochs: float = AdapterField(1.0, gt=0)
    """Passes over the training examples. Two were not better than one beyond the noise
    (docs/experiments.md)."""
    batch_size: int = AdapterField(4, ge=2)
    """Examples in a micro-batch. KTO estimates its KL term within it, so at least 2."""
    training_processes: int = RunField(0, ge=0)
    """Processes that train together, each on micro-batches of its own (docs/training.md). 0: one for each
    GPU, or one where there is none."""
    gradient_accumulation: int = AdapterField(1, ge=1)
    """Micro-batches in one optimizer step."""
    gradient_checkpointing: Literal["auto", "on", "off"] = LiveField("auto")
    """Whether the backward pass computes activations again, which saves memory and takes time: on, off, or
    auto: where half of the free memory would not hold those of a micro-batch."""
    max_length: int = AdapterField(1024, ge=8)
    """Longest training example, in tokens; its end is cut."""
    tuning: Literal["lora", "qlora", "full"] = AdapterField("lora")
    """What is trained. lora: adapters on the base model. qlora: the same on the base in 4 bits, which needs a
    CUDA GPU and the extra `qlora`. full: every weight; runs whose result is served refuse it."""
    lora_rank: int = AdapterField(16, ge=1)
    """Rank of the LoRA adapters. 16 is a common choice, and was not searched."""
    seed: int = AdapterField(0)
    """Seed of the hold-out, the order of examples and the training."""
    max_weight: float = AdapterField(15.0, ge=1)
    """Largest ratio between the weights of thumbs up and thumbs down."""
    checkpoint_steps: int = RunField(10, ge=1)
    """Optimizer steps between two checkpoints."""
    report_to: Annotated[list[Item], NoDecode, AsList] = LiveField([])
    """Where a training reports its steps in addition to its log, as transformers names it: `tensorboard`
    (needs thumbloop[tensorboard]; events in the run's folder), `wandb`, `mlflow` and others, which send
    figures elsewhere. Empty: nowhere."""
    lease_seconds: float = LiveField(30.0, gt=0)
    """A trainer that is silent for so long has lost its run to another."""
    max_attempts: int = LiveField(3, ge=1)
    """Times a run is resumed after its trainer died."""

    # May it be deployed?
    hold_out_fraction: float = RunField(0.2, gt=0, lt=1)
    """Share of chats kept out of training to judge the result."""
    gate_prompts: int = RunField(40, ge=0)
    """Prompts to which the gate samples replies of each version, to judge what people would read. 0: none,
    and a version that is not worse on held-out votes is deployed."""
    gate_max_prompts: int = RunField(160, ge=0)
    """Prompts to which it samples replies where those to the first `gate_prompts` leave open whether a
    version is better or worse; each of the two looks then asks for half of the error that `gate_confidence`
    allows. As many as the first ones or fewer: an admin decides at once."""
    gate_seconds: float = RunField(0, ge=0)
    """About how long the gate may take to sample replies: it then replies to fewer prompts, at least 8, and
    leaves out smaller strengths. 0: as long as it takes."""
    gate_reply_tokens: int = RunField(256, ge=8)
    """Longest reply that the gate samples, in tokens; THUMBLOOP_MAX_NEW_TOKENS, if that is less."""
    gate_confidence: float = RunField(0.9, gt=0.5, lt=1)
    """Probability with which a version's replies must be better than the deployed version's to be deployed,
    or worse to be rejected. In between an admin decides."""
    gate_canary_share: float = RunField(0, ge=0, lt=1)
    """Share of new chats for a canary of a version that is probably better. 0: an admin decides."""
    gate_canary_confidence: float = RunField(0.7, gt=0.5, lt=1)
    """The probability from which a version is probably better."""
    gate_judge: ModelServer = LiveField("")
    """A judge model that compares sampled replies of a new version with those of the deployed one, as
    NAME=URL,KEY,MODEL. It gets held-out conversations. Empty: none."""
    strengths: Annotated[list[Strength], NoDecode, AsList] = RunField([0.5, 1.0], min_length=1)
    """Strengths at which the gate tries a new adapter; that with the best unharmed replies is published. 1 is
    the adapter as trained. An adapter that continues another one is published as it is."""
    gate_finished_tolerance: float = RunField(0.05, ge=0)
    """How much the share of sampled replies that end by themselves may fall below the base model's."""
    gate_empty_tolerance: float = RunField(0.02, ge=0)
    """How much the share of empty replies may rise above the base model's."""
    gate_repetition_tolerance: float = RunField(0.03, ge=0)
    """How much the mean share of repeated 4-grams may rise above the base model's."""
    gate_log_probability_tolerance: float = RunField(0.2, ge=0)
    """How much the base model's mean log-probability of a token may fall, in nats, below that of its own
    replies."""
    gate_other_language_tolerance: float = RunField(0.1, ge=0)
    """How much the share of replies in another language than the prompt may rise above the base model's."""
    gate_refusal_tolerance: float = RunField(0.1, ge=0)
    """How much the share of replies that begin as a refusal may rise above the base model's."""
    gate_general_tolerance: float = RunField(0.2, ge=0)
    """How much the mean log-probability of a token of general texts may fall, in nats, below the base
    model's."""
    gate_min_votes: int = RunField(4, ge=2)
    """Held-out votes the gate needs (two of each kind among them), else an admin decides."""
    gate_loss_tolerance: float = RunField(0.005, ge=0)
    """How much the held-out KTO loss may exceed the deployed version's."""
    gate_auc_tolerance: float = RunField(0.02, ge=0)
    """How much the held-out AUC may fall; one standard error, if that is larger."""
    auto_deploy: bool = RunField(True)
    """Deploy a version that passes the gate without asking."""

    # Does it stay deployed?
    auto_rollback: bool = NowField(True)
    """Roll back a deployed version that people like less than the one before, and end such a canary
    (docs/serving.md)."""
    auto_promote: bool = NowField(True)
    """Deploy a canary that people like more than the deployed version."""
    monitor_error_rate: float = NowField(0.05, gt=0, le=0.5)
    """How often a version that people like as much may be taken for a worse one, or for a better one, however
    often the votes are looked at."""
    monitor_min_votes: int = NowField(20, ge=1)
    """Votes on a version before anything is decided on it."""
    one_person_may_decide: Literal["auto", "yes", "no"] = NowField("auto")
    """Whether the votes of one person can roll back or promote a version. auto: not where people have
    accounts, but on a machine where anyone may chat."""
