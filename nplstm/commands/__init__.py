"""The programs behind the command ``nplstm``."""
