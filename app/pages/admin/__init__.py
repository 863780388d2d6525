"""The admin page: figures, training, versions, exports, imports and erasure.

Its panels show what app.api returns; also imports app.services, app.web, trainer and storage.
Begin with `page.py`.
"""
