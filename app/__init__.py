"""What people and programs touch: the pages, the API, the command line, and the serving of replies."""
