"""The pages' Blocks update what an event names, and nothing else."""

from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from app.pages.blocks import Page
from tests.support.threads import in_a_loop

LEFT = {"__type__": "update"}  # Gradio's page leaves such a component as it is


@pytest.mark.parametrize(
    ("named", "sent"),
    [
        ({"chat": "Hello"}, ["Hello", LEFT, LEFT]),
        ({"box": "Hello", "chat": gr.skip()}, [LEFT, "Hello", LEFT]),
        ({"box": gr.skip()}, [LEFT, LEFT, LEFT]),
        ({"note": "", "chat": "Hello", "box": "You"}, ["Hello", "You", ""]),
        ({"box": gr.Textbox(interactive=False)}, [LEFT, LEFT | {"interactive": False}, LEFT]),
    ],
)
def test_an_update_leaves_other_components_alone(named: dict[str, Any], sent: list[Any]) -> None:
    with Page() as page:
        parts = {name: gr.HTML() for name in ("chat", "note")} | {"box": gr.Textbox()}
        outputs = [parts["chat"], parts["box"], parts["note"]]
        page.load(lambda: None, outputs=outputs)
    (event,) = page.fns.values()
    session = SessionState(page)
    before = [session[part._id] for part in outputs]
    update = {parts[name]: value for name, value in named.items()}

    assert in_a_loop(page.postprocess_data(event, update, session)) == sent
    after = [session[part._id] for part in outputs]
    kept = [one is other for one, other in zip(before, after, strict=True)]
    assert kept == [each in (LEFT, "Hello", "You", "") for each in sent]


def test_values_without_names_are_all_sent() -> None:
    with Page() as page:
        one, other = gr.HTML(), gr.HTML()
        page.load(lambda: None, outputs=[one, other])
    (event,) = page.fns.values()
    assert in_a_loop(page.postprocess_data(event, ["a", "b"], SessionState(page))) == ["a", "b"]
