"""Gradio's Blocks, which refuse bad input without a traceback in the log, and update only what changed.

Whoever is signed in may send any JSON as a page's event, and Gradio prints a traceback for every exception.
"""

import html
from copy import copy
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

    async def postprocess_data(
        self, block_fn: Any, predictions: Any, *args: Any, **options: Any
    ) -> list[Any]:
        """Leave the outputs alone that an update does not name.

        For each of them Gradio would make a new component and the JSON schema of its values, which took most
        of the time of a streaming reply.
        """
        if not isinstance(predictions, dict) or not all(
            isinstance(key, gr.blocks.Block) for key in predictions
        ):
            return await super().postprocess_data(block_fn, predictions, *args, **options)
        changed = {block: value for block, value in predictions.items() if value != gr.skip()}
        named = copy(block_fn)
        named.outputs = [block for block in block_fn.outputs if block in changed]
        sent = iter(await super().postprocess_data(named, changed, *args, **options) if changed else ())
        return [next(sent) if block in changed else gr.skip() for block in block_fn.outputs]


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
