"""``python -m adapterdb`` is ``adb``."""

from adapterdb.cli import main

if __name__ == "__main__":
    main()
