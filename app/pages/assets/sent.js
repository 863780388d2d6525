// Tells the composer which message the server has stored; the value is made in chat/page.py.
watch('value', () => {
  if (props.value) document.dispatchEvent(new CustomEvent('tl-sent', { detail: JSON.parse(props.value) }));
});
