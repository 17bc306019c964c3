"""What ``nplstm train``, ``sample`` and ``gradcheck`` do, once their arguments are read."""

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from nplstm._typing import Array
from nplstm.backends import get_backend
from nplstm.errors import ArgumentError, MissingDependencyError
from nplstm.gradcheck import gradcheck
from nplstm.language_model.baselines import bigram_bits, unigram_bits
from nplstm.language_model.model import LanguageModel
from nplstm.language_model.text import PYDOC, Corpus, read_text
from nplstm.language_model.trainer import Settings, Trainer
from nplstm.plotting import plot_training

CHECKPOINT, MODEL, PICTURE = "checkpoint.safetensors", "model.safetensors", "loss.png"
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended, by the shells' convention."""


def train(
    source: str,
    folder: Path,
    options: dict[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    backend: str = "numpy",
) -> int:
    """Train a model on ``source`` and leave it in ``folder``; ``options`` are the settings that were given.

    Returns
    -------
    int
        0, or 130 where Ctrl-C stopped the run: a checkpoint is written, and the way to go on is printed.
    """
    checkpoint = folder / CHECKPOINT
    if resume:
        trainer = _resume(checkpoint, source, options, backend)
    else:
        if checkpoint.exists() and not overwrite:
            raise ArgumentError(
                f"{folder} holds a run already: go on with --resume, start again with --overwrite, "
                f"or choose another --out"
            )
        settings = Settings(**options)
        trainer = Trainer(_corpus(source, settings), settings, backend=backend)
        folder.mkdir(parents=True, exist_ok=True)
    baselines = _baselines(trainer.corpus)
    print(_describe(trainer, source, backend))
    finished = _run(trainer, folder)
    if not finished:
        command = f"nplstm train{'' if source == PYDOC else ' ' + source} --out {folder} --resume"
        print(f"\nStopped after {trainer.progress.step} updates; all is saved. Go on with\n  {command}")
        return INTERRUPTED
    _report(trainer, folder, baselines)
    return 0


def _resume(checkpoint: Path, source: str, options: dict[str, Any], backend: str) -> Trainer:
    if not checkpoint.exists():
        raise ArgumentError(f"--resume: there is no {checkpoint} to go on from")
    steps = options.pop("steps", None)
    trainer = Trainer.load(checkpoint, lambda settings: _corpus(source, settings), steps=steps, backend=backend)
    saved = asdict(trainer.settings)
    for name, value in options.items():
        if saved[name] != value:
            raise ArgumentError(
                f"--{name.replace('_', '-')}: the run to resume has {saved[name]}, got {value}; "
                f"only --steps may change"
            )
    return trainer


def _corpus(source: str, settings: Settings) -> Corpus:
    return Corpus.of(read_text(source), validation=settings.validation, window=settings.window)


def _baselines(corpus: Corpus) -> dict[str, float]:
    parts = corpus.training, corpus.validation, len(corpus.vocabulary)
    return {"unigram": unigram_bits(*parts), "bigram": bigram_bits(*parts)}


def _describe(trainer: Trainer, source: str, backend: str) -> str:
    corpus, model, settings = trainer.corpus, trainer.model, trainer.settings
    start = f", from update {trainer.progress.step} on" if trainer.progress.step else ""
    return (
        f"text      {source}: {len(corpus.training):,} characters to train on, {len(corpus.validation):,} to "
        f"validate with, {len(corpus.vocabulary)} different ones\n"
        f"model     {model.lstm!r}, {model.num_parameters:,} parameters, on {backend}\n"
        f"training  {settings.steps:,} updates of {trainer.characters_per_update:,} characters{start}"
    )


def _run(trainer: Trainer, folder: Path) -> bool:
    """Train to the end, or until Ctrl-C; return whether the end was reached."""
    settings, progress = trainer.settings, trainer.progress
    with _progress_bar(settings.steps, progress.step) as bar, _interrupts() as interrupted:
        while not trainer.done and not interrupted:
            bits = trainer.update()
            taken = bar.n + 1 - bar.initial
            speed = taken * trainer.characters_per_update / (bar.format_dict["elapsed"] or 1)
            validation = f", validation {progress.history[-1][2]:.3f}" if progress.history else ""
            bar.set_postfix_str(f"{bits:.3f} bits/char{validation}, {speed / 1000:.0f}k char/s", refresh=False)
            bar.update()
            if trainer.evaluation_due:
                _, improved = trainer.evaluate()
                if improved:
                    trainer.model.save(folder / MODEL)
                trainer.save(folder / CHECKPOINT)
    if not trainer.done:
        trainer.save(folder / CHECKPOINT)
    return trainer.done


def _progress_bar(total: int, initial: int) -> Any:
    try:
        bar: Any = import_module("tqdm").tqdm
    except ImportError as error:
        raise MissingDependencyError("tqdm is not installed: pip install 'nplstm[train]'") from error
    # a log file gets a line now and then, a terminal a bar that moves
    interval = 0.1 if sys.stderr.isatty() else 10.0
    layout = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    return bar(total=total, initial=initial, mininterval=interval, dynamic_ncols=True, bar_format=layout)


@contextmanager
def _interrupts() -> Generator[list[int]]:
    """Collect Ctrl-C and a polite kill in a list, so that an update is never cut in two; a second one acts."""
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in (signal.SIGINT, signal.SIGTERM):
        before[kind] = signal.signal(kind, remember)
    try:
        yield caught
    finally:
        restore()


def _report(trainer: Trainer, folder: Path, baselines: dict[str, float]) -> None:
    """Print the figures and a sample, and draw the picture."""
    progress = trainer.progress
    print(f"\nvalidation loss, bits per character ({len(trainer.corpus.validation):,} characters)")
    for name, bits in baselines.items():
        print(f"  {name:8}{bits:7.3f}")
    best_at = min(progress.history, key=lambda row: row[2])[0]
    print(f"  {'LSTM':8}{progress.best:7.3f}   (after {best_at:,} updates)")
    model = LanguageModel.load(folder / MODEL)
    print("\na sample, at temperature 0.8\n")
    text = "".join(model.sample("", length=400, temperature=0.8, rng=trainer.settings.seed))
    print("\n".join("  | " + line for line in text.strip("\n").split("\n")))
    print(f"\nmodel     {folder / MODEL}")
    try:
        plot_training(folder / PICTURE, progress.history, baselines)
    except MissingDependencyError as error:
        print(f"picture   none: {error}")
    else:
        print(f"picture   {folder / PICTURE}")


def _model_path(path: Path) -> Path:
    """Admit a run's folder for the model in it."""
    return path / MODEL if path.is_dir() else path


def sample(
    path: Path,
    *,
    prompt: str,
    length: int,
    temperature: float,
    seed: int | None,
    backend: str = "numpy",
) -> int:
    """Print the prompt and what the model makes of it, character by character as they come."""
    model = LanguageModel.load(_model_path(path), backend=backend)
    characters = model.sample(prompt, length=length, temperature=temperature, rng=seed)
    sys.stdout.write(prompt)
    try:
        for character in characters:
            sys.stdout.write(character)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        print()
    return 0


def check_gradient(path: Path, source: str, *, backend: str = "numpy", window: int = 32) -> int:
    """Compare the gradient of a trained model's loss with finite differences in float64; print the result."""
    model = LanguageModel.load(_model_path(path), backend=backend).to(dtype="float64")
    numbers = model.vocabulary.encode(read_text(source)[: 4 * window + 1])
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
        return model.gradients(x, y, rng=np.random.default_rng(0)).gradients

    worst = gradcheck(loss, gradient, dict(model.parameters))
    print(
        f"gradient check of {_model_path(path)}: {model.num_parameters:,} parameters, {x.size} characters, "
        f"float64\n"
        f"  analytic against numerical derivatives: largest relative difference {worst:.1e} (allowed 1e-06)"
    )
    return 0
