"""``nplstm doctor``: what NumPy runs on here, how fast it is, and what to set if it could be faster.

``machine`` collects facts, ``rates`` and ``trial`` measure, ``advice`` concludes, ``report`` prints.
``docs/doctor.md`` describes the text and the JSON.
"""
