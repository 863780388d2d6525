"""Every setting: its name, its default and what it does.

May import storage.errors and .files. Begin with `serving.py` and `training.py`, which define most settings.
"""

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from storage.errors import BadSetting
from storage.settings.frozen import Frozen, NowField
from storage.settings.serving import ServingSettings
from storage.settings.training import TrainingSettings
from storage.settings.validators import Address, check_together, check_webhook_secret, variable

# Settings whose values are never shown.
SECRETS = frozenset(
    {
        *("webhook_secret", "openai_api_key", "metrics_token", "gate_judge", "oidc"),
        *("artifacts_options", "ray_headers"),
    }
)
# Settings with fields, which an error about them names.
STRUCTURED = ("oidc", "ray")
# Why a setting cannot be changed while the server runs, where it is not that it is read once.
FIXED = {
    **dict.fromkeys(SECRETS, "secrets are not kept in the database."),
    **dict.fromkeys(("data_dir", "database_url"), "changes are kept in that place."),
    **dict.fromkeys(("model", "template_args", "precision"), "all versions here belong to that model."),
    **dict.fromkeys(("auth", "trusted_proxies"), "it decides who may come in, and so who may change it."),
}


class Settings(TrainingSettings, ServingSettings):
    """All settings. Unknown names in thumbloop.toml are an error."""

    model_config = SettingsConfigDict(
        env_prefix="THUMBLOOP_",
        toml_file="thumbloop.toml",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    # Sending data elsewhere
    webhook_url: Address = Field("")
    """Address that receives every vote (docs/webhook.md). Empty: none."""
    webhook_secret: str = Field("", validate_default=True)  # an empty one is refused with webhook_url
    """What signs the webhook: `whsec_` and 24 to 64 random bytes in base64."""
    webhook_timeout_seconds: float = Field(15.0, gt=0, le=600)
    """Longest wait for the webhook's whole answer."""
    webhook_give_up_hours: float = Field(72.0, gt=0)
    """Hours after a vote until its delivery is not tried again."""

    metrics_token: str = Field("", pattern="^([!-~]{16,})?$")
    """Token with which a scraper may read /metrics and nothing else, at least 16 characters. Empty: only
    admins may."""

    opentelemetry: bool = Field(False)
    """Send traces of requests and replies by OTLP over HTTP to where the OTEL_ variables say (pip install
    'thumbloop[opentelemetry]')."""

    # Retention
    retention_days: int = NowField(0, ge=0)
    """Days without a message after which a chat is erased. 0: never."""
    deleted_chat_days: int = NowField(30, ge=0)
    """Days after which a deleted chat is erased. 0: never; it stays hidden."""
    trash_days: int = Field(30, ge=1)
    """Days that adapter folders of no known version stay in `trash/` of the data directory."""

    @field_validator("webhook_secret")
    @classmethod
    def _standard_secret(cls, value: str, info: ValidationInfo) -> str:
        if value or info.data.get("webhook_url"):
            check_webhook_secret(value)
        return value

    @model_validator(mode="after")
    def _settings_agree(self) -> "Settings":
        check_together(self.model_dump())
        return self

    def take_over(self, other: "Settings") -> bool:
        """Have the other's values of what may be changed while servers run; returns whether any differed."""
        values = {name: getattr(other, name) for name in changeable_settings()}
        differs = any(getattr(self, name) != value for name, value in values.items())
        self.__dict__.update(values)  # the fields are frozen for all others, and pydantic keeps them here
        return differs

    @property
    def database_address(self) -> str:
        """The SQLAlchemy address in use: `database_url`, or SQLite in the data directory."""
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


def describe(name: str) -> str:
    """What a setting does, as one line."""
    return " ".join((Settings.model_fields[name].description or "").split())


def known_setting(text: str) -> str:
    """The field of a setting named as people do, such as THUMBLOOP_BETA or beta; raises BadSetting."""
    name = text.lower().removeprefix("thumbloop_")
    if name not in Settings.model_fields:
        raise _unknown(text)
    return name


def _unknown(text: str, *, in_file: bool = False) -> BadSetting:
    """The error for a name that is no setting's; it says which was probably meant, as one writes it there."""
    bare = text.lower().removeprefix("thumbloop_")
    close = get_close_matches(bare, Settings.model_fields, n=1, cutoff=0.8)
    meant = [name if in_file else variable(name) for name in close]
    remedy = f"Did you mean {meant[0]}? " if meant else ""
    where = " in thumbloop.toml" if in_file else ""
    return BadSetting(
        f"{text} is not a setting{where}. {remedy}`thumbloop settings` lists them all.", field=text
    )


def frozen_settings(*kinds: Frozen) -> set[str]:
    """The names of the settings of these kinds (see storage.settings.frozen)."""
    return {name for name in Settings.model_fields if _mark(name, "frozen") in kinds}


def changeable_settings() -> set[str]:
    """The names of the settings that an admin may change while the server runs."""
    return {name for name in Settings.model_fields if not why_fixed(name)}


def why_fixed(name: str) -> str:
    """Why a setting cannot be changed while the server runs, as a sentence; empty if it can."""
    changeable = _mark(name, "changeable") and name not in FIXED
    return "" if changeable else FIXED.get(name, "it is read once, at the start.")


def with_changes(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with other values; raises BadSetting."""
    if not changes:
        return settings
    return load_settings(**settings.model_dump(exclude_unset=True) | dict(changes))


def _mark(name: str, mark: str) -> object:
    extra = Settings.model_fields[name].json_schema_extra
    return extra.get(mark) if isinstance(extra, dict) else None


def in_environment(values: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables that give these settings again; takes `model_dump(mode="json")`."""
    return {
        variable(name): json.dumps(value) if isinstance(value, list | dict) else str(value)
        for name, value in values.items()
    }


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raises BadSetting, which names the setting, its value and the remedy."""
    known = set(map(variable, Settings.model_fields))
    for name in os.environ:
        if name.startswith("THUMBLOOP_") and name not in known and not name.startswith("THUMBLOOP_TEST_"):
            raise _unknown(name)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # settings that contradict each other
            raise BadSetting(f"{first['msg'].removeprefix('Value error, ')}.") from error
        # What follows the name is the place in a list, or the alternative of a type that did not fit.
        field, *place = first["loc"]
        if first["type"] == "extra_forbidden" and str(field) not in Settings.model_fields:
            raise _unknown(str(field), in_file=True) from error
        inside = [str(part) for part in place if isinstance(part, int) or field in STRUCTURED]
        name = ".".join([str(field), *inside])
        given = "…" if field in SECRETS else repr(first.get("input"))
        raise BadSetting(
            f"{variable(name)}={given}: {first['msg'].removeprefix('Value error, ')}. "
            f"`thumbloop settings {variable(str(field))}` explains it.",
            field=name,
        ) from error
