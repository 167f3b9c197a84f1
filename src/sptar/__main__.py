"""``python -m sptar``."""

from sptar.cli import main

if __name__ == "__main__":
    main()
