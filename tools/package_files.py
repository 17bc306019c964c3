"""Print the files that an installed package has, for meson.build: what is imported, and what is read at run time.

Named by their kind, so that nothing else that lies in the folders gets into a wheel: no caches, no library of an
earlier build. The C sources stay out too: they are compiled when the wheel is built, and the sdist has them.
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIXES = {".py", ".pyi", ".typed", ".cu", ".cuh"}

files = (path for path in (ROOT / "nplstm").rglob("*") if path.suffix in SUFFIXES)
print(*sorted(path.relative_to(ROOT).as_posix() for path in files), sep="\n")
