"""``python -m nplstm`` is the command ``nplstm``."""

from nplstm.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
