"""Is NumPy as fast here as it could be, and what to do if not: the program behind ``nplstm doctor``.

Facts are collected (``machine``, ``cpus``, ``blas``, ``gpu``) and speeds measured (``rates``, ``trial``);
``advice`` is drawn from them. ``examination`` is all of it in one object, ``report`` its text, ``command`` the
command. What text and JSON say is in ``docs/doctor.md``.
"""
