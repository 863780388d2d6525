"""The composer: editing one's own message, and a draft that survives a reload.

Editing happens in the browser: a message's button puts its text into the box and its id into the component
below, whose value is sent with the next Send. Once the server has stored a message, the page removes its
text from the box and leaves what was typed since. When the page unloads, because the person reloads it or
Gradio does after losing the server, the box's text is kept in the tab (sessionStorage). It is restored with
the page, unless that message has arrived.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from app.pages.chat.transcript import ShownMessage

TEMPLATE = """{{#if value}}<div class="tl-editing" role="status">
<span>Editing your message. Sending it replaces what follows.</span>
<button type="button" data-leave-edit>Cancel</button></div>{{/if}}"""

SCRIPT = """
const KEY = 'tl-draft';
const kept = JSON.parse(sessionStorage.getItem(KEY) ?? '{}');
let aside = kept.aside ?? '';  // what was in the box before the editing began
let chat = '';

const box = () => document.querySelector('#tl-box textarea');
const open = () => document.querySelector('#tl-chats [data-current]')?.dataset.current;
const sent = () => [...document.querySelectorAll('[data-sent]')];
const write = (text) => {
  box().value = text;
  box().dispatchEvent(new Event('input', { bubbles: true }));
};
const bringBack = () => {
  write(aside);
  aside = '';
};

const begin = (message) => {
  if (!props.value) aside = box().value;
  props.value = message.dataset.sent;
  chat = open();
  write(message.querySelector('.tl-said').textContent);
  box().focus();
};
const leave = () => {
  const message = sent().find((one) => one.dataset.sent === props.value);
  props.value = '';
  bringBack();
  (message?.querySelector('[data-edit]') ?? box()).focus();
};

document.addEventListener('click', (event) => {
  const button = event.target instanceof Element ? event.target.closest('button') : null;
  if (button?.matches('[data-edit]')) begin(button.closest('[data-sent]'));
  if (button?.matches('[data-leave-edit]')) leave();
});
document.addEventListener('keydown', (event) => {
  const meant = event.key === 'Escape' && !event.isComposing && !document.querySelector('dialog[open]');
  if (meant && props.value) leave();
});
document.addEventListener('tl-opened', () => {
  if (props.value && chat && open() !== chat) leave();
  chat = open();
});
document.addEventListener('tl-sent', ({ detail }) => {
  if (box().value.startsWith(detail.text)) write(box().value.slice(detail.text.length));
  if (detail.edits && detail.edits === props.value) {
    props.value = '';
    aside += box().value;
    bringBack();
  }
});

addEventListener('pagehide', () => {
  if (open() === undefined && !box().value) return;  // the page has not brought back yet what was kept
  const draft = { text: box().value, edits: props.value, aside, after: sent().at(-1)?.dataset.sent };
  sessionStorage.setItem(KEY, JSON.stringify(draft));
});
document.addEventListener('submit', (event) => {
  if (!event.target.matches('[action="logout"]')) return;
  props.value = aside = '';  // the next person at this screen shall not read it
  write('');
});
"""

SENT_SCRIPT = """
watch('value', () => {
  if (props.value) document.dispatchEvent(new CustomEvent('tl-sent', { detail: JSON.parse(props.value) }));
});
"""

# The inputs of the page's load event: its state, and the draft that the tab kept.
TAKE_DRAFT = "() => [null, JSON.parse(sessionStorage.getItem('tl-draft') ?? '{}')]"


def editing_banner() -> gr.HTML:
    """The component whose value is the id of the message being edited, or empty."""
    return gr.HTML(
        "", html_template=TEMPLATE, js_on_load=SCRIPT, elem_id="tl-editing", apply_default_css=False
    )


def sent_marker() -> gr.HTML:
    """The component whose value tells the page which message was stored; see `sent`."""
    return gr.HTML(
        "",
        html_template="<i hidden></i>",
        js_on_load=SENT_SCRIPT,
        elem_id="tl-sent",
        apply_default_css=False,
    )


def sent(message_id: str, text: str, edits: str) -> str:
    """The marker's value: `text` was stored as that message, replacing `edits` if that is not empty."""
    return json.dumps({"id": message_id, "text": text, "edits": edits})


@dataclass(frozen=True)
class Draft:
    """The text of the box, a new text for the message `edits` if set; `after` is the last message sent."""

    text: str = ""
    edits: str = ""
    after: str = ""

    @classmethod
    def read(cls, kept: object) -> "Draft":
        """The draft that the tab kept; empty for anything else."""
        if not isinstance(kept, dict):
            return cls()
        names = ("text", "edits", "after")
        return cls(**{name: kept[name] for name in names if isinstance(kept.get(name), str)})

    def is_waiting(self, messages: Sequence[ShownMessage]) -> bool:
        """Whether the draft is still unsent; `messages` are those of the open chat."""
        sent = [item.message for item in messages if item.message.role == "user"]
        arrived = bool(sent) and sent[-1].id != self.after and sent[-1].content == self.text
        return bool(self.text) and not arrived
