"""Property tests: the same examples on every machine, and no limit on their time."""

import hypothesis

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")
