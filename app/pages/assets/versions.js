// The buttons in the table of versions (templates/admin/versions.html).
element.addEventListener('click', ({ target }) => {
  const button = target.closest('[data-deploy]');
  if (button) trigger('deploy_version', { version: button.dataset.deploy });
  const candidate = target.closest('[data-canary]');
  if (candidate) trigger('try_version', { version: candidate.dataset.canary });
  if (target.closest('[data-end-canary]')) trigger('end_canary');
  if (target.closest('[data-retrain]')) trigger('retrain');
});
