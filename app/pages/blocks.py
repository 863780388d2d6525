"""Gradio's Blocks, which refuse bad input without a traceback in the log.

Whoever is signed in may send any JSON as a page's event, and Gradio prints a traceback for every exception.
"""

import html
from typing import Any

import gradio as gr

from app.web.openapi_names import check_storable
from storage.errors import InvalidInput, ThumbloopError


class Page(gr.Blocks):
    async def process_api(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> Any:
        try:
            wanted = block_fn.inputs
            if len(inputs) != len(wanted):
                raise InvalidInput(f"The event has {len(inputs)} values instead of {len(wanted)}.")
            check_storable(inputs)
            return await super().process_api(block_fn, inputs, *args, **options)
        except ThumbloopError as error:
            # Gradio shows a message as HTML.
            raise gr.Error(html.escape(error.message), print_exception=False) from error
        except gr.Error as error:  # one of Gradio's own checks, such as of a choice
            error.print_exception = False
            raise


def chosen(event: gr.EventData, name: str) -> str:
    """What a script of ours sends with an event; raises InvalidInput without it."""
    try:
        value = getattr(event, name)
    except (AttributeError, TypeError):  # TypeError: the data is no object
        value = None
    if not isinstance(value, str):
        raise InvalidInput(f"The event has no text {name!r}; reload the page.", field=name)
    check_storable(value)
    return value
