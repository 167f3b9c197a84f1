"""``python -m sptar``."""

from sptar.cli.entry import main

if __name__ == "__main__":
    main()
