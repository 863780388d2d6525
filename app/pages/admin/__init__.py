"""The admin page: figures, training, versions, exports, imports and erasure.

Its panels show what app.api returns; also imports app.services, app.web, trainer and storage.
Begin with `page.py`. A new panel is a template, its values in `panels.py` and a line in `page.py`.
`feedback.py` and `audit.py` are plain HTML pages of their own.
"""
