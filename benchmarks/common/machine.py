"""Description of the machine and the commit that a measurement belongs to."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nplstm.commands.doctor.machine import find_processor
from nplstm.engines.cpus import find_cpus


def describe() -> dict[str, Any]:
    """Return what there is to know of the machine, at this time."""
    processor = find_processor()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD") + "+" * bool(_git("status", "--porcelain")),
        "processor": processor.model,
        "instructions": processor.instructions,
        "cpus": find_cpus().usable,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
