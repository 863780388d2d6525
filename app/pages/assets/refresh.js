// The admin page's panels are refreshed while the page is visible. The reports read every reply, so less often.
setInterval(() => document.hidden || trigger('refresh'), 1000);
setInterval(() => document.hidden || trigger('refresh_reports'), 30000);
