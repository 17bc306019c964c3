"""The command line: ``nplstm train``, ``nplstm sample``, ``nplstm gradcheck``.

Exit status: 0 done; 1 a gradient is wrong; 2 bad arguments, bad files, something missing; 130 stopped by
Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nplstm import __version__
from nplstm.errors import GradcheckError, NplstmError
from nplstm.language_model import Settings, commands
from nplstm.language_model.text import PYDOC

_HELP = {
    "embedding_size": "width of a character's vector",
    "hidden_size": "cells of each LSTM layer",
    "num_layers": "LSTM layers",
    "dropout": "dropout between layers",
    "batch_size": "streams of text read side by side",
    "window": "characters of each stream per update",
    "steps": "updates in all; the one setting that --resume may change",
    "lr": "Adam's learning rate at its peak",
    "clip_norm": "bound on the gradient's norm",
    "validation": "share of the text held out, from its end",
    "evaluate_every": "updates between evaluations, each with a checkpoint",
    "seed": "of initial weights and dropout",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = vars(_parser().parse_args(argv))
    run = arguments.pop("run")
    try:
        return run(**arguments)
    except BrokenPipeError:
        # the reader has gone, as in `nplstm sample ... | head`: not an error, but stdout is of no use any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except GradcheckError as error:
        print(f"nplstm: {error}", file=sys.stderr)
        return 1
    except (NplstmError, OSError) as error:
        print(f"nplstm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return commands.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nplstm", description="The LSTM without the framework.")
    parser.add_argument("--version", action="version", version=f"nplstm {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(subparsers)
    _add_sample(subparsers)
    _add_gradcheck(subparsers)
    return parser


def _add_command(subparsers: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=help_text, description=help_text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(run=run)
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="where to compute")
    return parser


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        metavar="TEXT",
        default=PYDOC,
        help="a UTF-8 text file; without one, the documentation that CPython itself ships",
    )


def _add_train(subparsers: Any) -> None:
    parser = _add_command(subparsers, "train", _train, "Train a character-level language model on a text.")
    _add_text(parser)
    parser.add_argument("--out", type=Path, default=Path("nplstm-run"), help="folder of the run", metavar="DIR")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR, bit for bit")
    again.add_argument("--overwrite", action="store_true", help="start again where DIR holds a run")
    for setting in fields(Settings):
        parser.add_argument(
            "--" + setting.name.replace("_", "-"),
            type=int if isinstance(setting.default, int) else float,
            default=argparse.SUPPRESS,
            metavar="N" if isinstance(setting.default, int) else "X",
            help=f"{_HELP[setting.name]} (default: {setting.default})",
        )


def _train(source: str, out: Path, resume: bool, overwrite: bool, backend: str, **options: Any) -> int:
    return commands.train(source, out, options, resume=resume, overwrite=overwrite, backend=backend)


def _add_sample(subparsers: Any) -> None:
    parser = _add_command(subparsers, "sample", _sample, "Print text that a trained model makes up.")
    parser.add_argument("path", type=Path, metavar="MODEL", help="a model file, or the folder of a run")
    parser.add_argument("--prompt", default="", help="text to begin with")
    parser.add_argument("--length", type=int, default=500, metavar="N", help="characters to print")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0: always the likeliest; 1: as learnt"
    )
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="for the same text again")


def _sample(path: Path, prompt: str, length: int, temperature: float, seed: int | None, backend: str) -> int:
    return commands.sample(path, prompt=prompt, length=length, temperature=temperature, seed=seed, backend=backend)


def _add_gradcheck(subparsers: Any) -> None:
    parser = _add_command(
        subparsers, "gradcheck", _gradcheck, "Check a trained model's gradient against finite differences."
    )
    parser.add_argument("path", type=Path, metavar="MODEL", help="a model file, or the folder of a run")
    _add_text(parser)


def _gradcheck(path: Path, source: str, backend: str) -> int:
    return commands.check_gradient(path, source, backend=backend)
