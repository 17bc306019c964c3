"""The command ``nplstm``: arguments and help of its subcommands, exit statuses, errors.

Exit status: 0 done; 1 a gradient is wrong, or two layers are not the same; 2 bad arguments, bad files, something
missing; 130 stopped by Ctrl-C (128 + the signal's number, for any signal); 141 the reader of the output has gone.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nplstm._version import __version__
from nplstm.commands.language_model import Settings, commands
from nplstm.errors import GradcheckError, NplstmError
from nplstm.io.layer_files import FORMATS
from nplstm.io.model_file import MAX_BYTES, printable

_HELP = {
    "embedding_size": "width of a character's vector",
    "hidden_size": "cells of each LSTM layer",
    "num_layers": "LSTM layers",
    "dropout": "dropout between layers",
    "batch_size": "parallel streams of text",
    "window": "characters of each stream per update",
    "steps": "number of updates; the one setting that --resume may change",
    "lr": "Adam's learning rate at its peak",
    "clip_norm": "maximum norm of the gradient",
    "validation": "share of the text held out for validation, from its end",
    "evaluate_every": "updates between evaluations, each with a checkpoint",
    "seed": "seed of the initial weights and of dropout",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status. Errors of nplstm and of the system are printed on stderr.

    Parameters
    ----------
    argv : sequence of str, optional
        By default those of the process.

    Examples
    --------
    >>> from nplstm.commands.cli import main
    >>> main(["inspect", "missing.pt"])
    2
    """
    _prepare_streams()
    try:
        arguments = vars(_parser().parse_args(argv))
        run = arguments.pop("run")
        status = run(**arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _give_up_stdout()
        return commands.SIGNALLED + signal.SIGPIPE
    except GradcheckError as error:
        print(f"nplstm: {error}", file=sys.stderr)
        return 1
    except (NplstmError, OSError, MemoryError) as error:
        _give_up_stdout()
        lines = str(error or "not enough memory").split("\n")  # with names from files, which may hold anything
        print("nplstm: error:", "\n".join(map(printable, lines)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nnplstm: stopped", file=sys.stderr)
        return commands.SIGNALLED + signal.SIGINT


def _prepare_streams() -> None:
    """Replace missing streams by the null device; escape characters that the locale cannot encode."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _give_up_stdout() -> None:
    """Send stdout to the null device if it fails, so that the interpreter's last flush prints no second error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nplstm", description="The LSTM without the framework.")
    parser.add_argument("--version", action="version", version=f"nplstm {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_inspect(subparsers)
    _add_convert(subparsers)
    _add_run(subparsers)
    _add_verify(subparsers)
    _add_train(subparsers)
    _add_sample(subparsers)
    _add_gradcheck(subparsers)
    _add_doctor(subparsers)
    _add_bench(subparsers)
    return parser


def _add_subparser(subparsers: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    return parser


def _add_report(subparsers: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser = _add_subparser(subparsers, name, run, help_text)
    parser.add_argument(
        "--json", action="store_true", dest="as_json", help="print one JSON object instead of text"
    )
    return parser


def _add_command(subparsers: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser = _add_subparser(subparsers, name, run, help_text)
    parser.add_argument(
        "--backend", choices=("numpy", "cupy"), default="numpy", help="array library; cupy runs on a GPU"
    )
    return parser


def _add_inspect(subparsers: Any) -> None:
    help_text = "List a model file's LSTMs, with sizes and options, and its tensors."
    parser = _add_report(subparsers, "inspect", _inspect, help_text)
    _add_model(parser, "path", "FILE")
    _add_max_bytes(parser)


def _inspect(**arguments: Any) -> int:
    from nplstm.commands.model_files.inspect import (
        inspect,  # here and below: imported by the one command that needs it
    )

    return inspect(**arguments)


def _add_convert(subparsers: Any) -> None:
    help_text = "Convert a trained LSTM to another file format."
    parser = _add_subparser(subparsers, "convert", _convert, help_text)
    _add_model(parser, "source", "IN")
    parser.add_argument("target", type=Path, metavar="OUT", help="output file: .safetensors, .npz, .pt or .onnx")
    _add_choice_of_layer(parser)
    parser.add_argument(
        "--format", choices=tuple(dict.fromkeys(FORMATS.values())), help="format of OUT (default: by its suffix)"
    )
    parser.add_argument("--tensors", action="store_true", help="copy all tensors unchanged, not one LSTM")
    _add_max_bytes(parser)


def _convert(**arguments: Any) -> int:
    from nplstm.commands.model_files.convert import convert

    return convert(**arguments)


def _add_run(subparsers: Any) -> None:
    parser = _add_command(
        subparsers, "run", _run, "Run a trained LSTM over an array, which may be larger than memory."
    )
    _add_model(parser, "model", "MODEL")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        metavar="X.npy",
        help="array (T, B, I), (T, I), or with --batch-first (B, T, I)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="Y.npy", help="output array; an existing file is replaced"
    )
    parser.add_argument("--lengths", metavar="N,N,...", help="lengths of the sequences, or an .npy file of them")
    parser.add_argument(
        "--initial", type=Path, metavar="FILE", help="initial states, a file as --states writes it"
    )
    parser.add_argument(
        "--states", type=Path, metavar="FILE", help="file for the final states h_n and c_n: .npz or .safetensors"
    )
    _add_choice_of_layer(parser)
    _add_max_bytes(parser)


def _run(**arguments: Any) -> int:
    from nplstm.commands.model_files.run import run

    return run(**arguments)


def _add_verify(subparsers: Any) -> None:
    help_text = "Compare the LSTMs of two files: their parameters, and their outputs on random input."
    parser = _add_report(subparsers, "verify", _verify, help_text)
    _add_model(parser, "first", "A")
    _add_model(parser, "second", "B")
    parser.add_argument("--layer", metavar="NAME", help="name of the LSTM, if there are several")
    parser.add_argument("--second-layer", metavar="NAME", help="name of the LSTM in B, if it differs")
    parser.add_argument(
        "--tolerance", type=float, metavar="X", help="allowed difference (default: 1e-6, in float64 1e-12)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random input (default: 0)")
    _add_max_bytes(parser)


def _verify(**arguments: Any) -> int:
    from nplstm.commands.model_files.verify import verify

    return verify(**arguments)


def _add_model(parser: argparse.ArgumentParser, name: str, metavar: str) -> None:
    parser.add_argument(
        name, type=Path, metavar=metavar, help="model file: PyTorch, safetensors, npz, ONNX or Keras"
    )


def _add_max_bytes(parser: argparse.ArgumentParser) -> None:
    help_text = f"limit on the memory for reading a file, in bytes (default: {MAX_BYTES:,})"
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES, metavar="N", help=help_text)


def _add_choice_of_layer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", metavar="NAME", help="name of the LSTM, if there are several")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="element type (default: the file's)")
    parser.add_argument(
        "--batch-first",
        action=argparse.BooleanOptionalAction,
        help="whether the layer takes (B, T, I) (default: as the file says)",
    )


def _add_text(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("source", nargs="?", metavar="TEXT", help=f"a UTF-8 text file; without one, {default}")


def _add_train(subparsers: Any) -> None:
    parser = _add_command(subparsers, "train", commands.train, "Train a character-level language model on a text.")
    _add_text(parser, "the documentation that CPython ships; with --resume, the text of the run")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("nplstm-run"),
        metavar="DIR",
        help="folder for the run's files (default: nplstm-run)",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue from the checkpoint in DIR, bit for bit")
    again.add_argument("--overwrite", action="store_true", help="replace the run in DIR")
    for setting in fields(Settings):
        whole = isinstance(setting.default, int)
        parser.add_argument(
            "--" + setting.name.replace("_", "-"),
            type=int if whole else float,
            default=argparse.SUPPRESS,  # --resume checks the options that are set
            metavar="N" if whole else "X",
            help=f"{_HELP[setting.name]} (default: {setting.default})",
        )


def _add_sample(subparsers: Any) -> None:
    parser = _add_command(subparsers, "sample", commands.sample, "Generate text with a trained model.")
    parser.add_argument("path", type=Path, metavar="MODEL", help="a model file, or the folder of a run")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to continue")
    parser.add_argument("--length", type=int, default=500, metavar="N", help="characters to print (default: 500)")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="X",
        help="0: always the likeliest character; 1: the model's own probabilities (default: 0.8)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed, to get the same text again")


def _add_gradcheck(subparsers: Any) -> None:
    parser = _add_command(
        subparsers,
        "gradcheck",
        commands.check_gradient,
        "Check a trained model's gradient against finite differences.",
    )
    parser.add_argument("path", type=Path, metavar="MODEL", help="a model file, or the folder of a run")
    _add_text(parser, "the documentation that CPython ships")


def _add_doctor(subparsers: Any) -> None:
    help_text = "Tell whether NumPy is as fast as it could be on this machine, and what to do if not."
    _add_report(subparsers, "doctor", _doctor, help_text)


def _doctor(*, as_json: bool) -> int:
    from nplstm.commands.doctor.report import doctor

    return doctor(as_json=as_json)


def _add_bench(subparsers: Any) -> None:
    help_text = "Time a streaming step, inference and training on this machine, for each engine."
    parser = _add_report(subparsers, "bench", _bench, help_text)
    parser.add_argument(
        "--seconds", type=float, default=0.3, metavar="X", help="measuring time for each figure (default: 0.3)"
    )


def _bench(*, as_json: bool, seconds: float) -> int:
    from nplstm.commands.bench import bench_command  # no other command needs it

    return bench_command(as_json=as_json, seconds=seconds)
