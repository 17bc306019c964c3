"""``python -m nplstm`` is the command ``nplstm``."""

from nplstm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
