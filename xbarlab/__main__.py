"""``python -m xbarlab``: the same as ``xbar``."""

from xbarlab.command import main

if __name__ == "__main__":
    main()
