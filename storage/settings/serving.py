"""The serving settings: storage, backend, network, access, and how replies are generated."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from storage.settings.frozen import ModelField, NowField
from storage.settings.oidc import OidcProvider, ProviderName
from storage.settings.validators import (
    Address,
    AsList,
    AsObject,
    Item,
    Line,
    Network,
    Prefix,
    Store,
    TemplateArgs,
)

DEFAULT_MODEL = "smollm2-135m-instruct"


class ServingSettings(BaseSettings):
    """The part of `Settings` that the server reads."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    # Data and model
    data_dir: Path = Field(Path("data"))
    """Folder for the database, models, adapters and logs."""
    database_url: str = Field("")
    """SQLAlchemy address of the database. Empty: SQLite in the data directory. PostgreSQL:
    postgresql+psycopg://user:password@host/name"""
    model: str = ModelField(DEFAULT_MODEL)
    """Base model: `smollm2-135m-instruct` (comes with the installation), a hub id, or a folder."""
    template_args: Annotated[TemplateArgs, NoDecode] = ModelField({})
    """Arguments of the model's chat template, as JSON: {"enable_thinking": false}. The same for replies,
    training and exports."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = ModelField("auto")
    """Number format of the base model. auto: bf16 where the processor has it, else fp32. fp16: for GPUs
    without bf16."""

    # Adapters and checkpoints on several machines
    artifacts: Store = Field("")
    """Where adapters and checkpoints are kept for servers and trainers on several machines:
    `file:///FOLDER` or `s3://BUCKET/PREFIX` (docs/artifacts.md). Empty: in the data directory alone."""
    artifacts_options: Annotated[dict[str, Any], NoDecode, AsObject] = Field({})
    """What fsspec needs to reach that store, as JSON: {"endpoint_url": "…", "key": "…", "secret": "…"}.
    Keys that are not here are taken from the environment (AWS_…)."""
    artifacts_cache_gb: float = Field(50.0, gt=0)
    """Most GB of the store's adapters that stay in the data directory. Those that have not been used for the
    longest time go first, and none that is served."""

    # The backend that generates replies
    backend: Literal["local", "openai"] = Field("local")
    """Who replies. local: this process. openai: a server such as vLLM (docs/external.md)."""
    openai_base_url: Address = Field("")
    """Its API's address, for example http://gpu:8000/v1."""
    openai_api_key: str = Field("")
    """Key that the server asks for. Empty: none."""
    openai_model: str = Field("")
    """What the server calls the base model."""
    openai_timeout_seconds: float = Field(60.0, gt=0, le=3600)
    """Longest wait for the server's first token, and for the next."""

    # One device for serving and training
    device_mode: Literal["share", "exclusive"] = Field("share")
    """Whether replies go on while a training has its model loaded on the same machine. share: both at once.
    exclusive: the models that reply are unloaded, and requests get 503."""

    # Network and access
    host: str = Field("127.0.0.1")
    """Address to listen on."""
    port: int = Field(7860, ge=0, le=65535)
    """Port to listen on. 0 takes a free one."""
    auth: Literal["anonymous", "accounts"] = Field("anonymous")
    """anonymous: anyone who opens the page may chat (loopback addresses only). accounts: people sign in with
    a name and a password."""
    oidc: Annotated[dict[ProviderName, OidcProvider], NoDecode, AsObject] = Field({})
    """Identity providers that people sign in with, as JSON: {"google": {"issuer": "https://accounts.google.com",
    "client_id": "…", "client_secret": "…"}} (docs/sign-in.md)."""
    root_path: Prefix = Field("")
    """Path below which a reverse proxy serves Thumbloop, for example /chat. The proxy may cut it off."""
    drain_seconds: int = Field(30, ge=0, le=3600)
    """After SIGTERM: seconds that the replies under way have to end, while new ones are refused and `/readyz`
    says so. The server stops as soon as none is left. 0: it stops at once, and they are stored as far as they
    came."""
    trusted_proxies: Annotated[list[Network], NoDecode, AsList] = Field(["127.0.0.1", "::1"])
    """Addresses or networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are used: for
    delays after failed sign-ins, and for cookies that need HTTPS."""
    session_days: int = NowField(30, ge=1)
    """Days until a browser session ends."""

    # Chatting
    system_prompt: str = NowField("You are a helpful assistant.")
    """System prompt of new chats. Empty: none."""
    chat_settings: bool = NowField(True)
    """The chat page lets people choose a new chat's system prompt and how its replies are sampled. Over the
    API programs may in any case."""
    starter_prompts: Annotated[list[Line], NoDecode, AsList] = NowField(
        [
            "Explain tides to a child",
            "Suggest a name for a sailing boat",
            "What should I cook with basil and rice?",
            "Write a haiku about rain",
        ],
        max_length=8,
    )
    """First messages that the chat page offers in a new chat; a click sends one. Empty: none."""
    model_titles: bool = NowField(False)
    """The model writes the titles of new chats after their first reply. Off: a title is the first words of
    the first message, which read better than what the default model writes."""
    compare_share: float = NowField(0.0, ge=0, le=1)
    """Share of the replies below which the chat page asks which of two is better; never two in a row. People
    can always ask for a second reply themselves."""
    max_message_chars: int = Field(32_000, ge=1)
    """Longest message that is accepted, in characters."""
    max_new_tokens: int = NowField(512, ge=1)
    """Longest reply, in tokens."""
    temperature: float = NowField(0.7, ge=0, le=2)
    """Sampling temperature. 0 is greedy."""
    top_p: float = NowField(0.9, gt=0, le=1)
    """Nucleus sampling: share of probability kept."""
    max_concurrent_replies: int = Field(16, ge=1)
    """Replies generated at once; more wait."""
    max_waiting_replies: int = Field(32, ge=0)
    """Replies that may wait for a place; beyond that the answer is 503."""
    max_replies_per_minute: int = Field(0, ge=0)
    """Replies that one person may ask for in a minute. 0: no limit."""
    rate_limit_store: str = Field("")
    """Where several servers count replies and new visitors together, such as redis://host:6379 (needs
    thumbloop[redis]). Empty: each server counts for itself."""
    max_waiting_writes: int = Field(2048, ge=1)
    """Votes that may wait for their commit; beyond that the answer is 503."""
    batching: Literal["auto", "off"] = Field("auto")
    """auto: replies of one version are computed as one batch, where the model allows it. off: each in a
    thread of its own."""
    serving_cache_tokens: int = Field(16_384, ge=1024)
    """Tokens of prompts and replies that each loaded version can hold at once (23 kB each for the default
    model in bf16). It also bounds the length of a chat."""
    max_loaded_versions: int = Field(4, ge=2)
    """Model versions in memory at once: deployed, canary, the one to roll back to, then those that `/v1`
    names."""
    vote_tags: Annotated[list[Item], NoDecode, AsList] = NowField(
        ["wrong", "unclear", "too long", "too short", "tone", "unsafe"], max_length=20
    )
    """Reasons that the chat page offers after a thumb down; over the API any may be given."""
    vote_tags_up: Annotated[list[Item], NoDecode, AsList] = NowField(
        ["correct", "clear", "complete", "friendly"], max_length=20
    )
    """Reasons that the chat page offers after a thumb up."""
    language: Literal["de", "en", "es", "zh-CN"] = Field("en")
    """Language of the chat page for a browser that asks for none of those it has."""
    consent_default: bool = NowField(True)
    """New chats may be used for training unless their owner says otherwise."""
    max_import_mb: int = Field(256, ge=1)
    """Largest feedback file that the API imports, in MiB."""
    redaction_language: str = Field("en")
    """Language of the texts that an export redacts, as spaCy names it, for example de."""
    redaction_model: str = Field("")
    """spaCy model that recognises names and places in redacted exports: the name of an installed one, such as
    en_core_web_lg, or a folder. Empty: patterns alone."""
