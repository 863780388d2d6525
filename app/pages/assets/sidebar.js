// The list of chats: the URL names the open chat, so that a reload opens it again.
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
