"""The build backend: meson-python, with an editable install of our own, and with free-threaded Python.

meson-python's editable install runs ninja in every process that imports the package. Here the kernels are compiled
once and put into the source tree, beside the modules that call them; a .pth file names the tree (decision 13).
"""

import base64
import hashlib
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import mesonpy
from mesonpy import get_requires_for_build_sdist, get_requires_for_build_wheel

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

ROOT = Path(__file__).parent.parent
BUILT = ("nplstm/engines/compiled/_kernels.*.so", "nplstm/engines/compiled/why_pure.txt")
"""What a build adds to the sources."""

get_requires_for_build_editable = get_requires_for_build_wheel


def build_sdist(sdist_directory, config_settings=None):
    """Build what is published as sources."""
    return mesonpy.build_sdist(sdist_directory, _settings(config_settings))


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Build what is published, and what ``pip install .`` installs."""
    return mesonpy.build_wheel(wheel_directory, _settings(config_settings), metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """Build a wheel that refers to the source tree, and put into the tree what it lacks."""
    with tempfile.TemporaryDirectory() as folder:
        name = build_wheel(folder, config_settings)
        with zipfile.ZipFile(Path(folder, name)) as wheel:
            files = {item.filename: wheel.read(item) for item in wheel.infolist()}
    _complete_tree({path: content for path, content in files.items() if path.startswith("nplstm/")})
    record = next(path for path in files if path.endswith(".dist-info/RECORD"))
    information = record.removesuffix("RECORD")
    kept = {path: content for path, content in files.items() if path.startswith(information) and path != record}
    kept["nplstm.pth"] = f"{ROOT}\n".encode()
    kept[record] = _record(kept, record)
    with zipfile.ZipFile(Path(wheel_directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in kept.items():
            wheel.writestr(path, content)
    return name


def _settings(given):
    """Let the kernels do without the limited API where Python has none: meson-python stops otherwise."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return given
    others = (given or {}).get("setup-args", [])
    others = [others] if isinstance(others, str) else list(others)
    return {**(given or {}), "setup-args": ["-Dpython.allow_limited_api=false", *others]}


def _complete_tree(package):
    for pattern in BUILT:
        for old in ROOT.glob(pattern):
            if old.relative_to(ROOT).as_posix() not in package:
                old.unlink()
    for path, content in package.items():
        if any(Path(path).match(pattern) for pattern in BUILT):
            _replace(ROOT / path, content)


def _replace(file, content):
    # not written in place: a process that has the old library loaded would read the new one's code
    new = file.with_name(f"{file.name}.new")
    new.write_bytes(content)
    new.replace(file)


def _record(files, record):
    lines = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{record},,\n"]).encode()
