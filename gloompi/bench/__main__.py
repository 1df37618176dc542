"""``python -m gloompi.bench``."""

from . import main

if __name__ == "__main__":
    main()
