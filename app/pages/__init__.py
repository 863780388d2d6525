"""The pages that people see: the chat at `/` and the administration at `/admin`, both Gradio Blocks.

They use the services and storage, but no SQL and no model. Begin with `chat/page.py`.
"""
