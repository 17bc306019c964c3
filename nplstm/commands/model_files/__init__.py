"""Functions behind the commands for model files: ``nplstm inspect``, ``convert``, ``run`` and ``verify``."""
