"""Which model on which server is meant: `NAME=URL,KEY,MODEL` and its numbers."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from storage.errors import InvalidInput
from storage.imports.rows.cells import JUDGE_NAME

FORM = "NAME=URL,MODEL or NAME=URL,KEY,MODEL, such as mini=https://host.example/v1,$MY_KEY,some-model"
NUMBERS = {
    "temperature": float,
    "top_p": float,
    "max_tokens": int,
    "at_once": int,
    "timeout": float,
    "seconds": float,
    "seed": int,
}
PRICE = "price"


@dataclass(frozen=True)
class ServerSpec:
    """A model on a server: its name here, the server's address, the key and the model's name there.

    `at_once` requests may be under way. `price` is what a million prompt and completion tokens cost, and
    `seconds` what a call takes, about; both are for plans.
    """

    name: str
    url: str
    key: str
    model: str
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    at_once: int = 8
    timeout: float = 120.0
    price: tuple[float, float] | None = None
    seconds: float = 3.0
    own: bool = False  # a server of ours, which is to keep these chats out of training

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its answers: no address, no key, and no number that only says how fast it is asked."""
        names = ("name", "model", "temperature", "top_p", "max_tokens", "seed")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        if self.price is None:
            return None
        return (self.price[0] * prompt_tokens + self.price[1] * completion_tokens) / 1e6


def parse_server(text: str, option: str = "model") -> ServerSpec:
    """Read `NAME=URL,MODEL` or `NAME=URL,KEY,MODEL`, with `temperature=0.7`, `at_once=4` and so on after it.

    A key that begins with $ is read from that environment variable. Raises InvalidInput, without the key.
    """
    name, _, rest = text.partition("=")
    parts = [part.strip() for part in rest.split(",")]
    given = [part for part in parts[1:] if "=" not in part]
    options = [part for part in parts[1:] if "=" in part]
    url = parts[0].rstrip("/")
    if (
        not JUDGE_NAME.fullmatch(name.strip())
        or not url.startswith(("http://", "https://"))
        or len(given) not in (1, 2)
    ):
        raise InvalidInput(f"--{option} {name.strip()[:80]!r}: write {FORM}.", field=option)
    key = given[0] if len(given) == 2 else ""
    if key.startswith("$"):
        if key[1:] not in os.environ:
            raise InvalidInput(
                f"--{option} {name}: the environment variable {key[1:]} is not set.", field=option
            )
        key = os.environ[key[1:]]
    return with_options(ServerSpec(name.strip(), url, key, given[-1]), options, option)


def is_own(text: str) -> bool:
    """Whether it names a version of ours, such as `v2` or `v2,temperature=0.7`, and no server."""
    return "=" not in text.partition(",")[0]


def name_of(text: str) -> str:
    """The name in `NAME=URL,…`, `v2` or `v2,temperature=0.7`."""
    return re.split("[=,]", text, maxsplit=1)[0].strip()


def with_options(spec: ServerSpec, options: Iterable[str], option: str = "model") -> ServerSpec:
    """The spec with numbers such as `temperature=0.7`; raises InvalidInput."""
    return replace(spec, **dict(_option(spec.name, part.strip(), option) for part in options))


def _option(server: str, part: str, option: str) -> tuple[str, Any]:
    name, _, value = part.partition("=")
    try:
        if name == PRICE:
            asked, answered = value.split("/")
            return name, (float(asked), float(answered))
        number = NUMBERS[name](value)
        if number < (1 if name in ("max_tokens", "at_once") else 0):
            raise ValueError(value)
    except KeyError as error:
        known = ", ".join((*NUMBERS, PRICE))
        raise InvalidInput(f"--{option} {server}: {name!r} is not one of {known}.", field=option) from error
    except ValueError as error:
        form = "price=IN/OUT per million tokens" if name == PRICE else f"a number such as {name}=1"
        raise InvalidInput(f"--{option} {server}: {part!r} is not {form}.", field=option) from error
    return name, number
