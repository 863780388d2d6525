"""The pages that people see: the chat at `/` and the administration at `/admin`, both Gradio Blocks.

They know the services and storage; they know no SQL and no model. Begin with `chat/page.py`.
"""
