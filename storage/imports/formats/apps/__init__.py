"""The import formats of chat applications, annotation tools and traces.

May import storage.errors, .chats and storage.imports.rows and .files. Begin with `open_webui.py`;
conversations that are trees are walked by `trees.py`.
"""
