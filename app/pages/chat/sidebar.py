"""The list of chats next to the transcript, and the events that a click on a chat or branch triggers.

Pure functions and a script.
"""

from collections.abc import Sequence
from html import escape

from storage.db.tables import Chat

# The URL names the open chat, so that a reload opens it again.
SIDEBAR_SCRIPT = """
watch('value', () => {
  const chat = element.querySelector('[data-current]')?.dataset.current;
  if (chat !== undefined) history.replaceState(null, '', `?chat=${chat || 'new'}`);
  document.dispatchEvent(new Event('tl-opened'));
});
element.addEventListener('click', (event) => {
  const link = event.target.closest('[data-chat]');
  if (link && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    trigger('open_chat', { chat: link.dataset.chat });
  }
  if (event.target.closest('[data-older]')) trigger('older_chats');
});
document.addEventListener('click', (event) => {
  const message = event.target.closest?.('[data-show]')?.dataset.show;
  if (message) trigger('show_branch', { message });
});
"""


def chat_list(chats: Sequence[Chat], current: str | None, more: bool, reply: str = "") -> str:
    """The sidebar: links, so that a chat can also be opened in a new tab.

    By `reply` (tab_state.ChatState.reply) the style sheet shows or hides the buttons below the transcript:
    when several events toggle a component's `visible` at once, Gradio may apply them in the wrong order.
    """
    here = ' aria-current="page"'
    items = "".join(
        f'<li><a href="?chat={escape(chat.id)}" data-chat="{escape(chat.id)}"'
        f"{here if chat.id == current else ''}>{escape(chat.title or 'New chat')}</a></li>"
        for chat in chats
    )
    older = '<button type="button" data-older>Older chats</button>' if more else ""
    empty = "" if chats else '<p class="tl-note">Your chats appear here.</p>'
    return (
        f'<nav aria-label="Your chats" data-current="{escape(current or "")}" data-reply="{reply}">'
        f"<ul>{items}</ul>{empty}{older}</nav>"
    )
