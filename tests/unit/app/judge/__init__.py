"""Replies of several models, rated by a judge."""
