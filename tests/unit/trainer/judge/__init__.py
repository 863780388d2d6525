"""Judge models: their questions and their answers."""
