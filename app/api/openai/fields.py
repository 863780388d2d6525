"""What becomes of a request's fields that Thumbloop does not read: refused, harmless, or named in a header.

A field that would change the reply is refused. One that may is named in the answer's header
`X-Thumbloop-Warning`, so that nobody believes it had an effect.
"""

import re
from collections.abc import Mapping
from typing import Any

from storage.errors import InvalidInput

WARNING = "X-Thumbloop-Warning"
MOST_NAMES, LONGEST_NAME = 20, 40  # in the header
# The values of each field that do not change the reply; another one is refused. Fields below the line are
# other servers' extensions.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    # ----
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "length_penalty": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "prompt_logprobs": (0,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": (),
    "json_schema": (),
}
# These never change what the model says.
HARMLESS = {
    "service_tier",
    "prediction",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "cache_prompt",
    "request_id",
    "priority",
}


def refuse_unsupported(given: Mapping[str, Any], template_args: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a field that would change the reply.

    Arguments of the chat template may be given as they are set (`template_args`).
    """
    for name, neutral in NEUTRAL.items():
        value = given.get(name)
        if name == "chat_template_kwargs" and isinstance(value, dict):
            neutral = ({key: template_args.get(key) for key in value},)
        if value is not None and value not in neutral:
            raise InvalidInput(
                f"{name} is not supported; leave it out.", field=name, code="unsupported_parameter"
            )


def without_effect(given: Mapping[str, Any]) -> list[str]:
    """The names of the fields that were given and had no effect, though they may have been meant to."""
    silent = NEUTRAL.keys() | HARMLESS
    return [name for name, value in given.items() if value is not None and name not in silent]


def warning(names: list[str]) -> dict[str, str]:
    """The header that names them; none without names."""
    if not names:
        return {}
    shown = [re.sub(r"[^\w.-]", "?", name[:LONGEST_NAME], flags=re.ASCII) for name in names[:MOST_NAMES]]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return {WARNING: f"without effect: {', '.join(shown)}{more}"}
