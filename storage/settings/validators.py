"""Validation of settings beyond their types: lists, addresses, time zones, settings that depend on others."""

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BeforeValidator, StringConstraints

# The settings that limit how much a data policy takes; each policy here needs at least one of its own.
POLICY_NUMBERS = {"window": ("window_days", "window_rows"), "balanced": ("row_budget",)}
# Arguments of a tokenizer's apply_chat_template that Thumbloop gives itself.
OUR_ARGUMENTS = {
    *("conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("tokenize", "return_dict", "return_tensors", "padding", "truncation", "max_length", "tools"),
}
ONLY_WITH = {name: policy for policy, names in POLICY_NUMBERS.items() for name in names} | {
    "replay_share": "window"
}


def _listed(value: object) -> object:
    """A list from an environment variable, which holds JSON or comma-separated items."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError("this is not JSON; write items with commas between them") from error
    return [item.strip() for item in value.split(",") if item.strip()]


def _object(value: object) -> object:
    """A JSON object from an environment variable; empty text is an empty one."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "{}")
    except ValueError as error:
        raise ValueError('this is not JSON; write an object such as {"enable_thinking": false}') from error


def _free_arguments(value: dict[str, Any]) -> dict[str, Any]:
    if taken := OUR_ARGUMENTS & value.keys():
        raise ValueError(f"{', '.join(sorted(taken))} cannot be set: Thumbloop does")
    return value


def _http_address(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("not an address that begins with https:// or http://")
    if "@" in parts.netloc:
        raise ValueError("leave user and password out: addresses are shown")
    return value


def _known_timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except Exception as error:
        raise ValueError(f"no time zone is named {value!r}; use a name such as Europe/Berlin") from error
    return value


def _slurm_parameters(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("cluster", "slurm") not in ("slurm", "local"):
        raise ValueError("cluster is slurm or local")
    return value


def matching(pattern: str, otherwise: str) -> AfterValidator:
    """Takes texts that match the pattern as a whole, and else says `otherwise`."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(otherwise)
        return value

    return AfterValidator(check)


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(
            f"{value!r} is not an address or a network, such as 10.0.0.5 or 172.18.0.0/16"
        ) from error
    return value


def check_webhook_secret(value: str) -> None:
    """Raise ValueError unless the text is a secret in the form of Standard Webhooks."""
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not value.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("not whsec_ followed by 24 to 64 bytes in base64; docs/webhook.md makes one")


AsList = BeforeValidator(_listed)
AsObject = BeforeValidator(_object)
TemplateArgs = Annotated[dict[str, Any], AsObject, AfterValidator(_free_arguments)]
Address = Annotated[str, AfterValidator(_http_address)]
TimeZone = Annotated[str, AfterValidator(_known_timezone)]
Network = Annotated[str, AfterValidator(_network)]
Prefix = Annotated[
    str, matching(r"(/[\w.~-]+)*", "write a path without a slash at its end, such as /chat, or nothing")
]
Store = Annotated[
    str,
    matching(
        r"(file:///[^@]+|s3://[^@/]+(/[^@]*)?)?", "write file:///FOLDER or s3://BUCKET/PREFIX, without keys"
    ),
]
_TIME = r"([01]\d|2[0-3]):[0-5]\d"
_TWO_TIMES = "write two times of day with a hyphen between them, such as 22:00-06:00"
Hours = Annotated[str, matching(f"({_TIME}-{_TIME})?", _TWO_TIMES)]
_A_SERVER = "write NAME=URL,MODEL or NAME=URL,KEY,MODEL; docs/cold-start.md says more"
ModelServer = Annotated[str, matching(r"([\w./-]{1,80}=https?://[^,\s]+(,[^,\s]+)+)?", _A_SERVER)]
_A_CLASS = "write `local`, `slurm`, `ray`, or `package.module:Class` of a class that Python can import"
Executor = Annotated[str, matching(r"local|slurm|ray|[\w.]+:\w+", _A_CLASS)]
SlurmParameters = AfterValidator(_slurm_parameters)
# `auto` is decided by the mode of sign-in (storage/settings/guard.py).
AutoNumber = Annotated[int, Ge(0)] | Literal["auto"]
AutoShare = Annotated[float, Gt(0), Le(1)] | Literal["auto"]
Item = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=50)]
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def check_together(values: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that contradict each other."""
    _check_data_policy(values)
    _check_backend(values)
    _check_sign_in(values)
    if values["job_data_dir"] and not values["artifacts"]:
        raise ValueError(
            "THUMBLOOP_JOB_DATA_DIR needs THUMBLOOP_ARTIFACTS: without it the server would not find what a "
            "job has trained"
        )


def _check_data_policy(values: Mapping[str, Any]) -> None:
    # A data policy needs one of its own limits, and refuses those of another policy.
    chosen = values["data_policy"]
    needed = POLICY_NUMBERS.get(chosen, ())
    if needed and not any(values[name] for name in needed):
        names = " or ".join(variable(name) for name in needed)
        raise ValueError(f"THUMBLOOP_DATA_POLICY={chosen} needs a number: set {names}")
    least = 2 * values["min_votes_per_class"]
    for name in ("window_rows", "row_budget"):
        if 0 < values[name] < least:
            raise ValueError(
                f"{variable(name)}={values[name]} is too small for THUMBLOOP_MIN_VOTES_PER_CLASS="
                f"{values['min_votes_per_class']}: set at least {least}, or lower that"
            )
    for name, policy in ONLY_WITH.items():
        if values[name] and policy != chosen:
            raise ValueError(
                f"{variable(name)}={values[name]:g} is for THUMBLOOP_DATA_POLICY={policy}: set that, "
                f"or leave {variable(name)} out"
            )


def _check_sign_in(values: Mapping[str, Any]) -> None:
    if values["oidc"] and values["auth"] == "anonymous":
        raise ValueError(
            "THUMBLOOP_OIDC is for THUMBLOOP_AUTH=accounts: set that, or leave THUMBLOOP_OIDC out"
        )


def _check_backend(values: Mapping[str, Any]) -> None:
    for name in ("openai_base_url", "openai_model"):
        if values["backend"] == "openai" and not values[name]:
            raise ValueError(
                f"THUMBLOOP_BACKEND=openai needs {variable(name)}: docs/external.md explains both"
            )
    if values["device_mode"] == "exclusive" and values["backend"] == "openai":
        raise ValueError(
            "THUMBLOOP_DEVICE_MODE=exclusive cannot unload the models of another server "
            "(THUMBLOOP_BACKEND=openai): give training a device of its own and set share"
        )


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"THUMBLOOP_{name.upper()}"
