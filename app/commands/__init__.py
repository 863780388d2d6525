"""The commands of `thumbloop`, one module per group.

Commands import torch, Gradio, FastAPI and pyarrow only when they need them, so that the others start at once.
Imports app.server, app.services, app.serving, app.web, trainer and storage. Begin with `serve.py`.
"""
