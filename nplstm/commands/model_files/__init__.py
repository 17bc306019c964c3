"""The programs behind ``nplstm inspect``, ``convert``, ``run`` and ``verify``: files with trained models."""
