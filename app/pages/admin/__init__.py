"""The admin's pages, plain HTML: overview, feedback, training, versions, people, data, settings, audit.

They show what app.api returns; also imports app.serving, app.services, app.web, trainer and storage.
Begin with `frame.py`. A new page is a module with a router here, a template, and a line in its `PAGES`.
"""

from app.pages.admin import audit, data, feedback, frame, overview, people, settings, training, versions

PAGES = (frame, overview, feedback, training, versions, people, data, settings, audit)
