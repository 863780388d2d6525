// The buttons of the guard's panel (templates/admin/guard.html).
element.addEventListener('click', ({ target }) => {
  const person = target.closest('[data-release]');
  if (person) trigger('release_person', { person: person.dataset.release });
  const release = target.closest('[data-withdraw]');
  if (release) trigger('withdraw_release', { release: release.dataset.withdraw });
});
