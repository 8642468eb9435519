"""What holds for all tests: hypothesis measures laws, not the machine's speed, and what starts starts quickly."""

import os
import tempfile

from hypothesis import settings

# before numpy and torch are loaded: tests go on side by side, and more threads would only fight over the processors
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# a hundred processes are started: none of them shall compile all modules anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# what runs note of themselves is no matter of the person who tests
os.environ["LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="xbarlab-state-")

pytest_plugins = ["pytester"]

settings.register_profile("xbarlab", deadline=None)
settings.load_profile("xbarlab")
