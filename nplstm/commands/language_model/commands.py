"""Functions behind the commands ``nplstm train``, ``sample`` and ``gradcheck``."""

import shlex
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from nplstm._typing import Array
from nplstm.backends import get_backend
from nplstm.commands.language_model.baselines import bigram_bits, unigram_bits
from nplstm.commands.language_model.network import LanguageModel
from nplstm.commands.language_model.settings import Settings
from nplstm.commands.language_model.text import PYDOC, Corpus, read_text
from nplstm.commands.language_model.trainer import Trainer
from nplstm.errors import ArgumentError, FileFormatError, MissingDependencyError
from nplstm.gradcheck import gradcheck
from nplstm.plotting import plot_training

CHECKPOINT, MODEL, PICTURE = "checkpoint.safetensors", "model.safetensors", "loss.png"
SIGNALLED = 128
"""A program that a signal ended has this plus the signal's number as its exit status: 130 for Ctrl-C."""


def train(
    source: str | None,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    backend: str = "numpy",
    **options: Any,
) -> int:
    """Train a model on a text file, and print its validation loss and a sample.

    Parameters
    ----------
    source : str or None
        The text file; None for CPython's documentation or, with ``resume``, the text of the run.
    out : Path
        Folder for model, checkpoint and plot.
    resume, overwrite : bool
        Continue from the checkpoint in ``out``; replace the run in ``out``.
    backend : {"numpy", "cupy"}
    **options
        Those of ``Settings`` that are not the defaults.

    Returns
    -------
    int
        0, or 130 where Ctrl-C stopped the run: a checkpoint is written, and the command that resumes it printed.

    Raises
    ------
    ArgumentError
        If ``out`` holds a run and neither option is set, or the text or a setting of the resumed run differs.
    MissingDependencyError
        If tqdm or safetensors is not installed.
    """
    make_bar = _progress_bar()
    if resume:
        trainer = _resume(out / CHECKPOINT, source, options, backend)
    else:
        trainer = _start(source or PYDOC, out, options, backend, overwrite=overwrite)
    baselines = _baselines(trainer.corpus)
    print(_describe(trainer, backend), flush=True)
    for name in (CHECKPOINT, MODEL, PICTURE):
        for stale in out.glob(f".{name}.*.part"):
            stale.unlink(missing_ok=True)  # what a run that was killed while it wrote has left
    signal_number = _run(trainer, out, make_bar)
    if signal_number:
        command = ["nplstm", "train", f"--out={out}", "--resume"]
        command += [] if backend == "numpy" else [f"--backend={backend}"]
        print(
            f"\nStopped after {trainer.progress.step} updates; a checkpoint is saved. Resume with\n"
            f"  {shlex.join(command)}"
        )
        return SIGNALLED + signal_number
    _report(trainer, out, baselines)
    return 0


def _start(source: str, out: Path, options: dict[str, Any], backend: str, *, overwrite: bool) -> Trainer:
    """Make a trainer and its first checkpoint, so that a full disk or a missing package is an error now."""
    old = [out / name for name in (CHECKPOINT, MODEL, PICTURE)]
    if any(path.exists() for path in old) and not overwrite:
        raise ArgumentError(
            f"{out} holds a run already: continue it with --resume, replace it with --overwrite, "
            f"or choose another --out"
        )
    settings = Settings(**options)
    trainer = Trainer(_corpus(source, settings), settings, backend=backend, source=_place(source))
    out.mkdir(parents=True, exist_ok=True)
    trainer.save(out / CHECKPOINT)
    for path in old[1:]:  # the old run's: from here on there is the new one only
        path.unlink(missing_ok=True)
    return trainer


def _resume(checkpoint: Path, source: str | None, options: dict[str, Any], backend: str) -> Trainer:
    if not checkpoint.exists():
        raise ArgumentError(f"--resume: there is no checkpoint {checkpoint}")
    steps = options.pop("steps", None)

    def read(settings: Settings, saved_source: str) -> Corpus:
        try:
            return _corpus(source or saved_source, settings)
        except FileNotFoundError as error:
            raise ArgumentError(
                f"--resume: {error}; name the run's text: nplstm train TEXT --resume ..."
            ) from error

    trainer = Trainer.load(checkpoint, read, steps=steps, backend=backend)
    if source is not None:
        trainer.source = _place(source)  # the same text in another place: found there next time
    saved = asdict(trainer.settings)
    for name, value in options.items():
        if saved[name] != value:
            raise ArgumentError(
                f"--{name.replace('_', '-')}: the run to resume has {saved[name]}, got {value}; "
                f"only --steps may change"
            )
    return trainer


def _place(source: str) -> str:
    """Return a path by which ``--resume`` finds the text from any folder."""
    return source if source == PYDOC else str(Path(source).resolve())


def _corpus(source: str, settings: Settings) -> Corpus:
    return Corpus.of(read_text(source), validation=settings.validation, window=settings.window)


def _baselines(corpus: Corpus) -> dict[str, float]:
    parts = corpus.training, corpus.validation, len(corpus.vocabulary)
    return {"unigram": unigram_bits(*parts), "bigram": bigram_bits(*parts)}


def _describe(trainer: Trainer, backend: str) -> str:
    corpus, model, settings = trainer.corpus, trainer.model, trainer.settings
    start = f", from update {trainer.progress.step} on" if trainer.progress.step else ""
    return (
        f"text      {trainer.source}: {len(corpus.training):,} characters to train on, {len(corpus.validation):,} "
        f"to validate with, {len(corpus.vocabulary)} different ones\n"
        f"model     {model.lstm!r}, {model.num_parameters:,} parameters, on {backend}\n"
        f"training  {settings.steps:,} updates of {trainer.characters_per_update:,} characters{start}"
    )


def _run(trainer: Trainer, out: Path, make_bar: Any) -> int:
    """Train to the end, or until a signal; return 0, or the signal's number."""
    progress, first, start = trainer.progress, trainer.progress.step, time.monotonic()

    def figures(bits: float) -> str:
        speed = (progress.step - first) * trainer.characters_per_update / max(time.monotonic() - start, 1e-9)
        validation = f", validation {progress.history[-1][2]:.3f}" if progress.history else ""
        return f"{bits:.3f} bits/char{validation}, {speed / 1000:.3g}k char/s"

    with make_bar(trainer.settings.steps, first) as bar, _interrupts() as interrupted:
        try:
            if trainer.done and trainer.evaluation_due:  # resumed at its end
                _evaluate(trainer, out)
            while not trainer.done and not interrupted:
                bits = trainer.update()
                if trainer.evaluation_due:
                    _evaluate(trainer, out)
                bar.set_postfix_str(figures(bits), refresh=False)
                bar.update()
        except BrokenPipeError:  # of the bar, between two updates: nobody reads it any more
            trainer.save(out / CHECKPOINT)
            raise
        if not trainer.done:
            trainer.save(out / CHECKPOINT)  # before the bar is closed, which writes to it
    return 0 if trainer.done else interrupted[0]


def _evaluate(trainer: Trainer, out: Path) -> None:
    _, improved = trainer.evaluate()
    if improved:
        trainer.model.save(out / MODEL)
    trainer.save(out / CHECKPOINT)


def _progress_bar() -> Any:
    """Return a function that makes the bar, from the number of updates in all and those that are done."""
    try:
        bar: Any = import_module("tqdm").tqdm
    except ImportError as error:
        raise MissingDependencyError("tqdm is not installed: pip install 'nplstm[train]'") from error
    # a log file gets a line now and then, a terminal a bar that moves
    interval = 0.1 if sys.stderr.isatty() else 10.0
    layout = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"

    def make(total: int, initial: int) -> Any:
        return bar(total=total, initial=initial, mininterval=interval, dynamic_ncols=True, bar_format=layout)

    return make


@contextmanager
def _interrupts() -> Generator[list[int]]:
    """List SIGINT and SIGTERM instead of acting on them, so that no update is interrupted; a second one acts."""
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()
        with suppress(
            OSError
        ):  # the same Ctrl-C may have ended stderr's reader; an error here would cut the update
            print("\nstopping after this update; again to stop at once", file=sys.stderr, flush=True)

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in (signal.SIGINT, signal.SIGTERM):
        before[kind] = signal.signal(kind, remember)
    try:
        yield caught
    finally:
        restore()


def _report(trainer: Trainer, out: Path, baselines: dict[str, float]) -> None:
    """Plot the losses, and print the validation losses and a sample."""
    progress = trainer.progress
    try:
        plot_training(out / PICTURE, progress.history, baselines)
        picture = str(out / PICTURE)
    except MissingDependencyError as error:
        picture = f"none: {error}"
    best_at = min(progress.history, key=lambda row: row[2])[0]
    print(f"\nvalidation loss, bits per character ({len(trainer.corpus.validation):,} characters)")
    for name, bits in baselines.items():
        print(f"  {name:8}{bits:7.3f}")
    evaluations = len(progress.history)
    print(f"  {'LSTM':8}{progress.best:7.3f}   (after {best_at:,} updates, the best of {evaluations} evaluations)")
    model = LanguageModel.load(out / MODEL)
    print("\na sample, at temperature 0.8\n")
    text = "".join(model.sample("", length=400, temperature=0.8, rng=trainer.settings.seed))
    print("\n".join("  | " + _printable(line) for line in text.strip("\n").split("\n")))
    print(f"\nmodel     {out / MODEL}\npicture   {picture}")


def _load(path: Path, backend: str) -> LanguageModel:
    """Load a model from its file, or from a run's folder."""
    if path.is_dir() and not (path / MODEL).exists() and (path / CHECKPOINT).exists():
        raise FileFormatError(f"{path}: the run has no model yet; the first evaluation writes it")
    return LanguageModel.load(path / MODEL if path.is_dir() else path, backend=backend)


def _printable(text: str) -> str:
    """Escape control characters: some that move the cursor may be in the training text or the prompt."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def sample(
    path: Path,
    *,
    prompt: str,
    length: int,
    temperature: float,
    seed: int | None,
    backend: str = "numpy",
) -> int:
    """Print the prompt and the text that a model generates after it, one character at a time.

    ``path`` is a model file or a run's folder; the rest, as for ``LanguageModel.sample``. Returns 0.

    >>> import tempfile
    >>> from nplstm.commands.language_model import Vocabulary
    >>> model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(Path(folder, "model.safetensors"))
    ...     status = sample(Path(folder), prompt="abba", length=0, temperature=0.8, seed=0)
    abba
    """
    model = _load(path, backend)
    characters = model.sample(prompt, length=length, temperature=temperature, rng=seed)
    show = _printable if sys.stdout.isatty() else str
    sys.stdout.write(prompt)
    for character in characters:
        sys.stdout.write(show(character))
        sys.stdout.flush()
    print()
    return 0


def check_gradient(path: Path, source: str | None, *, backend: str = "numpy", window: int = 32) -> int:
    """Compare a trained model's gradient with finite differences in float64; print the result and return 0.

    Raises
    ------
    GradcheckError
        If they differ.
    """
    model = _load(path, backend).to(dtype="float64")
    text = read_text(source or PYDOC)[: 4 * window + 1]
    try:
        numbers = model.vocabulary.encode(text)
    except ArgumentError as error:
        raise ArgumentError(
            f"{error}. Name the text that it was trained on: nplstm gradcheck MODEL TEXT"
        ) from error
    if len(numbers) < 2:
        raise ArgumentError(f"text: {source} has {len(numbers)} characters; a gradient check needs 2")
    streams = 4 if len(numbers) > 4 * window else 1
    steps = (len(numbers) - 1) // streams
    place = get_backend(backend).asarray
    x, y = (place(numbers[k : k + streams * steps].reshape(streams, steps).T) for k in (0, 1))

    def loss(parameters: dict[str, Array]) -> float:
        model.load_state_dict(parameters)
        return model.loss(x, y)[0]

    def gradient(parameters: dict[str, Array]) -> Any:
        model.load_state_dict(parameters)
        return model.gradients(x, y, training=False).gradients  # the loss has no dropout

    worst = gradcheck(loss, gradient, dict(model.parameters))
    print(
        f"gradient check of {path}: {model.num_parameters:,} parameters, {x.size} characters, float64\n"
        f"  analytic against numerical derivatives: largest relative difference {worst:.1e} (allowed 1e-06)"
    )
    return 0
