"""The mathematics of one layer in one direction: start with ``cell.py``, then ``step.py`` and ``time_loop.py``."""
