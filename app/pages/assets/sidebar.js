// The list of chats: the URL names the open chat, so that a reload opens it again.
let looks = 0;
watch('value', () => {
  const chat = element.querySelector('[data-current]')?.dataset.current;
  const title = element.querySelector('[aria-current]')?.textContent;
  document.title = title ? `${title} · Thumbloop` : 'Thumbloop';
  if (chat !== undefined) history.replaceState(null, '', `?chat=${chat || 'new'}`);
  document.dispatchEvent(new Event('tl-opened'));
  // The model writes a title after the reply has ended.
  clearInterval(looks);
  let left = 10;
  const look = () => left-- ? trigger('look_again', { quiet: true }) : clearInterval(looks);
  if (element.querySelector('[data-titling]')) looks = setInterval(look, 1500);
  // Of several searches on their way, an earlier one may be drawn last.
  const [wanted, shown] = [document.querySelector('#tl-search input').value, element.querySelector('nav')?.dataset.search];
  if (shown !== undefined && shown !== wanted) trigger('search_chats', { text: wanted });
});
element.addEventListener('click', (event) => {
  const link = event.target.closest('[data-chat]');
  if (link && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    trigger('open_chat', { chat: link.dataset.chat });
  }
  if (event.target.closest('[data-older]')) trigger('older_chats');
  const { pin: wanted, delete: unwanted, restore: missed } = event.target.dataset;
  if (wanted) trigger('pin_chat', { chat: wanted });
  if (unwanted) trigger('delete_chat', { chat: unwanted });
  if (missed) trigger('restore_chat', { chat: missed });
});
element.addEventListener('submit', (event) => {
  if (!event.target.matches('[data-rename]')) return;
  event.preventDefault();
  trigger('rename_chat', { chat: event.target.dataset.rename, title: event.target.elements.title.value });
});
let typing = 0;
document.addEventListener('input', ({ target }) => {
  if (!target.matches('#tl-search input')) return;
  clearTimeout(typing);
  typing = setTimeout(() => trigger('search_chats', { text: target.value }), 150);
});
// Another tab may have changed the open chat meanwhile.
addEventListener('focus', () => {
  if (!document.querySelector('[data-reply="streaming"]')) document.dispatchEvent(new Event('tl-look'));
  trigger('look_again', { quiet: true });  // nobody asked, so a failure is no news
});
document.addEventListener('tl-changed', () => trigger('look_again', { quiet: true }));
document.addEventListener('tl-settings', ({ detail }) => trigger('change_chat', { settings: detail }));
document.addEventListener('tl-show', ({ detail }) => trigger('show_branch', { message: detail }));
// The drawing of another branch removes the arrow that has the focus; one of the new message takes it over.
const focusArrow = (message, label, frames = 300) => {
  const bar = document.querySelector(`[data-message="${message}"], [data-sent="${message}"]`);
  const arrows = [...(bar?.querySelectorAll('[data-show]') ?? [])];
  if (bar) (arrows.find((arrow) => arrow.ariaLabel === label) ?? arrows[0])?.focus();
  else if (frames) requestAnimationFrame(() => focusArrow(message, label, frames - 1));
};
document.addEventListener('click', (event) => {
  if (event.target.closest?.('[data-again]')) trigger('regenerate');
  if (event.target.closest?.('[data-earlier]')) trigger('earlier_messages');
  const arrow = event.target.closest?.('[data-show]');
  if (!arrow) return;
  trigger('show_branch', { message: arrow.dataset.show });
  focusArrow(arrow.dataset.show, arrow.ariaLabel);
});
