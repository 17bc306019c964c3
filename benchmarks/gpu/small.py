"""A few small launches and nothing else: ``python -m benchmarks.gpu.small``, for tools that watch a process."""

import sys

from .verify import SMALL, compare


def main(backend: str = "cupy") -> int:
    """Run them; return 1 if one was wrong."""
    wrong = [found for found in compare(SMALL[:4], backend, runs=1) if found["outcome"] == "WRONG"]
    for found in wrong:
        print(found)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
