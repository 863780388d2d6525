"""Every setting: its name, its default and what it does.

Read once, from THUMBLOOP_* environment variables, then from `thumbloop.toml` in the working
directory. `thumbloop settings` and docs/settings.md list exactly the fields of this class.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from storage.errors import BadSetting
from storage.secret import webhook_key
from storage.setting_rules import Address, AsList, Item, TimeZone, check_together

DEFAULT_MODEL = "smollm2-135m-instruct"
# Settings whose values are shown nowhere.
SECRETS = frozenset({"webhook_secret", "openai_api_key", "metrics_token"})
SignalKind = Literal["regenerated", "edited", "copied"]


class Settings(BaseSettings):
    """All settings; unknown names in thumbloop.toml are refused."""

    model_config = SettingsConfigDict(
        env_prefix="THUMBLOOP_", toml_file="thumbloop.toml", extra="forbid", frozen=True
    )

    # Where things are
    data_dir: Path = Field(Path("data"), description="Folder for the database, models, adapters and logs.")
    database_url: str = Field(
        "",
        description="SQLAlchemy address of the database. Empty: SQLite in the data directory. "
        "PostgreSQL: postgresql+psycopg://user:password@host/name",
    )
    model: str = Field(
        DEFAULT_MODEL,
        description=f"Base model: `{DEFAULT_MODEL}` (comes with the installation), a hub id, or a folder.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Number format of the base model. auto: bf16 where the processor has it, else fp32. "
        "fp16: for GPUs without bf16.",
    )

    # Who generates replies
    backend: Literal["local", "openai"] = Field(
        "local",
        description="Who replies. local: this process. openai: a server such as vLLM (docs/external.md).",
    )
    openai_base_url: Address = Field("", description="Its API's address, for example http://gpu:8000/v1.")
    openai_api_key: str = Field("", description="Key that the server asks for. Empty: none.")
    openai_model: str = Field("", description="What the server calls the base model.")
    openai_timeout_seconds: float = Field(
        60.0, gt=0, le=3600, description="Longest wait for the server's first token, and for the next."
    )

    # Who may come in
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(7860, ge=0, le=65535, description="Port to listen on. 0 takes a free one.")
    auth: Literal["anonymous", "accounts"] = Field(
        "anonymous",
        description="anonymous: whoever opens the page may chat (loopback addresses only). "
        "accounts: people sign in with a name and a password.",
    )
    session_days: int = Field(30, ge=1, description="Days until a browser session ends.")

    # Chatting
    system_prompt: str = Field(
        "You are a helpful assistant.", description="System prompt of new chats. Empty: none."
    )
    max_message_chars: int = Field(
        32_000, ge=1, description="Longest message that is accepted, in characters."
    )
    max_new_tokens: int = Field(512, ge=1, description="Longest reply, in tokens.")
    temperature: float = Field(0.7, ge=0, le=2, description="Sampling temperature. 0 is greedy.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus sampling: share of probability kept.")
    max_concurrent_replies: int = Field(16, ge=1, description="Replies generated at once; more wait.")
    max_waiting_replies: int = Field(
        32, ge=0, description="Replies that may wait for a place; beyond that the answer is 503."
    )
    max_replies_per_minute: int = Field(
        0, ge=0, description="Replies that one person may ask for in a minute. 0: no limit."
    )
    max_waiting_writes: int = Field(
        2048, ge=1, description="Votes that may wait for their commit; beyond that the answer is 503."
    )
    batching: Literal["auto", "off"] = Field(
        "auto",
        description="auto: replies of one version are computed as one batch, where the model allows it. "
        "off: each in a thread of its own.",
    )
    serving_cache_tokens: int = Field(
        16_384,
        ge=1024,
        description="Tokens of prompts and replies that each loaded version can hold at once (23 kB each for "
        "the default model in bf16). It also bounds the length of a chat.",
    )
    max_loaded_versions: int = Field(
        4,
        ge=2,
        description="Model versions in memory at once: deployed, canary, the one to roll back to, "
        "then those that `/v1` names.",
    )
    vote_tags: Annotated[list[Item], NoDecode, AsList] = Field(
        ["wrong", "unclear", "too long", "too short", "tone", "unsafe"],
        max_length=20,
        description="Reasons that the chat page offers after a thumb down; over the API any may be given.",
    )
    vote_tags_up: Annotated[list[Item], NoDecode, AsList] = Field(
        ["correct", "clear", "complete", "friendly"],
        max_length=20,
        description="Reasons that the chat page offers after a thumb up.",
    )
    consent_default: bool = Field(
        True, description="New chats may be used for training unless their owner says otherwise."
    )
    max_import_mb: int = Field(256, ge=1, description="Largest feedback file that the API imports, in MiB.")
    redaction_language: str = Field(
        "en", description="Language of the texts that an export redacts, as spaCy names it, for example de."
    )
    redaction_model: str = Field(
        "",
        description="spaCy model that recognises names and places in redacted exports: the name of an "
        "installed one, such as en_core_web_lg, or a folder. Empty: patterns alone.",
    )

    # When to train
    schedule: str = Field(
        "0 3 * * *", description="When to train, as five cron fields. Empty: only when asked."
    )
    timezone: TimeZone = Field("UTC", description="Time zone of the schedule, for example Europe/Berlin.")
    min_new_votes: int = Field(
        20, ge=1, description="A scheduled run needs this many vote changes since the last trained snapshot."
    )
    min_votes_per_class: int = Field(
        2, ge=1, description="A run needs at least this many thumbs up and this many thumbs down."
    )
    min_voters: int = Field(1, ge=1, description="A run needs votes from at least this many people.")

    # What to train on
    train_on_corrections: bool = Field(
        False,
        description="What people wrote that a reply should have been is a desirable example too. Off, "
        "because whoever may write it may put any words into the model's mouth.",
    )
    train_on_signals: Annotated[list[SignalKind], NoDecode, AsList] = Field(
        [],
        description="What people did with replies that they did not vote on: regenerated and edited count as "
        "undesirable examples, copied as desirable ones. Empty: none.",
    )
    exclude_sources: Annotated[list[Item], NoDecode, AsList] = Field(
        [],
        description="Sources that are not trained on, such as `openai`, `import` (all imports) or "
        "`import:pairs`.",
    )
    import_weight: float = Field(
        1.0, gt=0, description="How much an imported example weighs in the loss, compared to one from here."
    )
    data_policy: Literal["all", "window", "balanced"] = Field(
        "all",
        description="Which votes a run reads. all: every one. window: the newest, by THUMBLOOP_WINDOW_DAYS, "
        "THUMBLOOP_WINDOW_ROWS or both. balanced: the newest of each kind within THUMBLOOP_ROW_BUDGET.",
    )
    window_days: float = Field(0, ge=0, description="A window's votes are from so many days before the run.")
    window_rows: int = Field(0, ge=0, description="A window has at most so many examples, the newest.")
    row_budget: int = Field(
        0,
        ge=0,
        description="Most examples of a balanced run, those held out included: half of them thumbs up and "
        "half thumbs down, the newest; where one kind has fewer, all of it, and more of the other.",
    )
    replay_share: float = Field(
        0, ge=0, lt=1, description="Share of a window's run that is drawn from the votes before the window."
    )
    max_rows_per_person: int = Field(
        0,
        ge=0,
        description="Most examples of each kind that one person gives to a run, the newest. 0: no limit. "
        "Imported rows name nobody and are not limited.",
    )
    half_life_days: float = Field(
        0,
        ge=0,
        description="Days in which an example loses half of its weight, unless the deployed version wrote "
        "the reply. 0: none loses any.",
    )

    # How to train
    training_mode: Literal["fresh", "continue"] = Field(
        "fresh",
        description="fresh: a new adapter, with the base model as the reference. continue: the deployed "
        "version's adapter, with that adapter, frozen, as the reference.",
    )
    beta: float = Field(0.1, gt=0, description="KTO's β: how far the policy may move from the reference.")
    loss_type: Literal["kto", "apo_zero_unpaired"] = Field("kto", description="Objective, as TRL names it.")
    engine: Literal["shared-prefix", "trl"] = Field(
        "shared-prefix",
        description="shared-prefix: KTO with every shared beginning computed once. trl: stock "
        "trl.KTOTrainer, the same numbers in several times the time.",
    )
    reference_cache_mb: int = Field(
        64, ge=0, description="Largest file of reference log-probabilities kept across runs, in MiB. 0: none."
    )
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate of the LoRA weights.")
    epochs: float = Field(1.0, gt=0, description="Passes over the training examples.")
    batch_size: int = Field(
        4, ge=2, description="Examples in a micro-batch. KTO estimates its KL term within it, so at least 2."
    )
    training_processes: int = Field(
        0,
        ge=0,
        description="Processes that train together, each on micro-batches of its own (docs/training.md). "
        "0: one for each GPU, or one where there is none.",
    )
    gradient_accumulation: int = Field(1, ge=1, description="Micro-batches in one optimizer step.")
    max_length: int = Field(1024, ge=8, description="Longest training example, in tokens; its end is cut.")
    tuning: Literal["lora", "qlora", "full"] = Field(
        "lora",
        description="What is trained. lora: adapters on the base model. qlora: the same on the base in "
        "4 bits, which needs a CUDA GPU and the extra `qlora`. full: every weight; runs whose result is "
        "served refuse it.",
    )
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA adapters.")
    seed: int = Field(0, description="Seed of the hold-out, the order of examples and the training.")
    max_weight: float = Field(
        15.0, ge=1, description="Largest ratio between the weights of thumbs up and thumbs down."
    )
    checkpoint_steps: int = Field(10, ge=1, description="Optimizer steps between two checkpoints.")
    report_to: Annotated[list[Item], NoDecode, AsList] = Field(
        [],
        description="Where a training reports its steps beside its log, as transformers names it: "
        "`tensorboard` (needs thumbloop[tensorboard]; events in the run's folder), `wandb`, `mlflow` and "
        "others, which send figures elsewhere. Empty: nowhere.",
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="A trainer that is silent for so long has lost its run to another."
    )
    max_attempts: int = Field(3, ge=1, description="Times a run is resumed after its trainer died.")

    # May it be deployed?
    hold_out_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of chats kept out of training to judge the result."
    )
    gate_min_votes: int = Field(
        4,
        ge=2,
        description="Held-out votes the gate needs (two of each kind among them), else an admin decides.",
    )
    gate_loss_tolerance: float = Field(
        0.005, ge=0, description="How much the held-out KTO loss may exceed the deployed version's."
    )
    gate_auc_tolerance: float = Field(
        0.02, ge=0, description="How much the held-out AUC may fall; one standard error, if that is larger."
    )
    auto_deploy: bool = Field(True, description="Deploy a version that passes the gate without asking.")

    # What is told to others
    webhook_url: Address = Field(
        "", description="Address that is told of every vote (docs/webhook.md). Empty: none."
    )
    webhook_secret: str = Field(
        "",
        validate_default=True,  # the address is never without it
        description="What signs the webhook: `whsec_` and 24 to 64 random bytes in base64.",
    )
    webhook_timeout_seconds: float = Field(
        15.0, gt=0, le=600, description="Longest wait for the webhook's whole answer."
    )
    webhook_give_up_hours: float = Field(
        72.0, gt=0, description="Hours after a vote until its delivery is not tried again."
    )

    metrics_token: str = Field(
        "",
        pattern="^([!-~]{16,})?$",
        description="Token with which a scraper may read /metrics and nothing else, at least 16 characters. "
        "Empty: only admins may.",
    )

    # What is forgotten
    retention_days: int = Field(
        0, ge=0, description="Days without a message after which a chat is erased. 0: never."
    )

    @field_validator("webhook_secret")
    @classmethod
    def _standard_secret(cls, value: str, info: ValidationInfo) -> str:
        if value or info.data.get("webhook_url"):
            webhook_key(value)
        return value

    @model_validator(mode="after")
    def _settings_agree(self) -> "Settings":
        check_together(self.model_dump())
        return self

    @property
    def database_address(self) -> str:
        """The SQLAlchemy address that is really used."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'thumbloop.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def in_environment(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings, as `model_dump(mode="json")` gives them, as the variables that read back the same."""
    return {
        f"THUMBLOOP_{name.upper()}": json.dumps(value) if isinstance(value, list) else str(value)
        for name, value in values.items()
    }


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raises BadSetting that names the setting, the value and what would do."""
    known = {f"THUMBLOOP_{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith("THUMBLOOP_") and name not in known and not name.startswith("THUMBLOOP_TEST_"):
            raise BadSetting(f"{name} is not a setting; `thumbloop settings` lists them all.", field=name)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # settings that do not go together
            raise BadSetting(f"{first['msg'].removeprefix('Value error, ')}.") from error
        name = ".".join(str(part) for part in first["loc"])
        given = "…" if name in SECRETS else repr(first.get("input"))
        raise BadSetting(
            f"THUMBLOOP_{name.upper()}={given}: {first['msg']}. `thumbloop settings` explains it.",
            field=name,
        ) from error
