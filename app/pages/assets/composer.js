// The composer: editing one's own message, and a draft that survives a reload.
//
// A message's button puts its text into the box and its id into this component, whose value is sent with the next Send.
// Once the server has stored a message, the page removes its text from the box and keeps what was typed since. When the
// page unloads, because the person reloads it or Gradio does after losing the server, the box's text is kept in the tab
// (sessionStorage). It is restored with the page, unless that message has arrived or somebody else has signed in.
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
  write(message.querySelector('.tl-text').textContent);
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
  if (button?.matches('[data-starter]')) {  // shown only while the box is empty
    write(button.textContent);
    document.querySelector('#tl-send').click();
  }
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
  // The page has not drawn the box yet, or not brought back what was kept.
  if (!box() || (open() === undefined && !box().value)) return;
  const person = document.querySelector('#tl-chats [data-person]')?.dataset.person ?? kept.person;
  const draft = { person, text: box().value, edits: props.value, aside, after: sent().at(-1)?.dataset.sent };
  sessionStorage.setItem(KEY, JSON.stringify(draft));
});
document.addEventListener('submit', (event) => {
  if (!event.target.matches('[action="logout"]')) return;
  props.value = aside = '';  // the next person at this screen shall not read it
  write('');
});
