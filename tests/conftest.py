"""What holds for all tests: hypothesis measures laws, not the machine's speed."""

from hypothesis import settings

pytest_plugins = ["pytester"]

settings.register_profile("xbarlab", deadline=None)
settings.load_profile("xbarlab")
