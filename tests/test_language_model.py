"""The main job: ``nplstm train``, ``sample`` and ``gradcheck``, as a user runs them."""

import hashlib
import io
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nplstm
from nplstm.commands.cli import main
from nplstm.commands.language_model import (
    Corpus,
    LanguageModel,
    Settings,
    Trainer,
    Vocabulary,
    bigram_bits,
    read_text,
    unigram_bits,
)
from nplstm.commands.language_model.text import PYDOC, streams
from nplstm.io import open_file, read_tensors, write_tensors

TEXT = "The quick brown fox jumps over the lazy dog; süß, 字!\n" * 60
SMALL = ["--embedding-size", "4", "--hidden-size", "8", "--batch-size", "3", "--window", "16"]


def metadata_of(path):
    with open_file(path) as file:
        return file.metadata


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def run(*arguments):
    return main([str(argument) for argument in arguments])


def digest(path):
    """Of a file's content; the order of a safetensors file's metadata is chance, and does not count."""
    if path.suffix != ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    tensors, metadata = read_tensors(path), metadata_of(path)
    content = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        content.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode() + tensors[name].tobytes())
    return content.hexdigest()


def test_training_leaves_a_model_a_checkpoint_and_a_picture(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", text, "--out", out, "--steps", 30, "--evaluate-every", 10, *SMALL) == 0
    printed = capsys.readouterr()
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint.safetensors",
        "loss.png",
        "model.safetensors",
    ]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    for part in ("a sample, at", "characters to train on", "the best of 3 evaluations"):
        assert part in printed.out
    figures = dict(re.findall(r"^  (unigram|bigram|LSTM) +(\d+\.\d+)", printed.out, flags=re.MULTILINE))
    assert set(figures) == {"unigram", "bigram", "LSTM"}
    assert all(0 < float(bits) < 10 for bits in figures.values())
    assert "bits/char" in printed.err
    assert "char/s" in printed.err
    assert run("sample", out, "--prompt", "The ", "--length", 20, "--seed", 1) == 0
    sampled = capsys.readouterr().out
    assert sampled.startswith("The ")
    assert len(sampled) == 4 + 20 + 1
    assert run("sample", out / "model.safetensors", "--prompt", "The ", "--length", 20, "--seed", 1) == 0
    assert capsys.readouterr().out == sampled
    assert run("gradcheck", out, text) == 0
    assert "largest relative difference" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--num-layers", "2", "--dropout", "0.2"]])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(text, tmp_path, options, monkeypatch, capsys):
    common = ["--steps", 40, "--evaluate-every", 15, *SMALL, *options]
    assert run("train", text, "--out", tmp_path / "whole", *common) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 22)  # between two evaluations
        assert run("train", text, "--out", tmp_path / "parts", *common) == 130
    printed = capsys.readouterr().out
    assert f"nplstm train --out={tmp_path / 'parts'} --resume" in printed
    assert "Stopped after 22 updates" in printed
    assert run("train", text, "--out", tmp_path / "parts", "--resume") == 0
    for name in ("model.safetensors", "checkpoint.safetensors", "loss.png"):
        assert digest(tmp_path / "whole" / name) == digest(tmp_path / "parts" / name), name


def test_the_comparison_of_runs_sees_a_difference(text, tmp_path):
    for seed in (0, 1):
        run("train", text, "--out", tmp_path / str(seed), "--steps", 5, "--seed", seed, *SMALL)
    assert digest(tmp_path / "0" / "model.safetensors") != digest(tmp_path / "1" / "model.safetensors")


def test_ctrl_c_in_a_process_of_its_own(text, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "nplstm", "train", text, "--out", str(out), "--steps", "1000000", *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "model.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in printed
    metadata = metadata_of(out / "checkpoint.safetensors")
    assert json.loads(metadata["progress"])["step"] >= 100


def test_a_run_is_neither_overwritten_nor_resumed_by_accident(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", text, "--out", out, "--resume") == 2
    assert "there is no" in capsys.readouterr().err
    assert run("train", text, "--out", out, "--steps", 4, *SMALL) == 0
    before = digest(out / "checkpoint.safetensors")
    assert run("train", text, "--out", out, "--steps", 4, *SMALL) == 2
    assert "holds a run already: continue it with --resume" in capsys.readouterr().err
    assert run("train", text, "--out", out, "--resume", "--hidden-size", 9) == 2
    assert "--hidden-size: the run to resume has 8, got 9; only --steps may change" in capsys.readouterr().err
    assert run("train", PYDOC, "--out", out, "--resume") == 2
    assert "and this is another text" in capsys.readouterr().err
    assert run("train", text, "--out", out, "--resume", "--steps", 3) == 2
    assert "has taken 4 updates already, got 3" in capsys.readouterr().err
    assert digest(out / "checkpoint.safetensors") == before
    assert run("train", text, "--out", out, "--resume", "--steps", 6, "--hidden-size", 8) == 0
    assert run("train", text, "--out", out, "--overwrite", "--steps", 4, *SMALL) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"abc\xff\xfe", r"not UTF-8 text: byte 0xff at offset 3"),
        (b"\x7fELF\x00\x01", "binary, not text: a NUL byte at offset 4"),
        (b"short", "5 characters are too few: the training part has 3 of them, and one window needs 65"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(content, message, tmp_path, capsys):
    path = tmp_path / "text"
    path.write_bytes(content)
    assert run("train", path, "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_missing_files_and_folders_are_named(tmp_path, capsys):
    assert run("train", tmp_path / "none.txt", "--out", tmp_path / "run") == 2
    assert "none.txt" in capsys.readouterr().err
    assert run("train", tmp_path, "--out", tmp_path / "run") == 2
    assert run("sample", tmp_path / "none") == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("--hidden-size", "0", "hidden_size: expected an integer >= 1, got 0"),
        ("--lr", "0", "lr: expected a number in (0.0, 1.79"),
        ("--validation", "0.9", "validation: expected a number in (0.0, 0.5]"),
        ("--dropout", "0.5", "dropout: acts between layers, and num_layers is 1"),
        ("--seed", "-1", "seed: expected an integer >= 0"),
    ],
)
def test_bad_settings_are_named(setting, value, message, text, tmp_path, capsys):
    assert run("train", text, "--out", tmp_path / "run", setting, value) == 2
    assert message in capsys.readouterr().err


def test_damaged_and_foreign_model_files_are_refused(text, tmp_path, capsys):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    model, checkpoint = out / "model.safetensors", out / "checkpoint.safetensors"
    whole = model.read_bytes()
    capsys.readouterr()

    def refuses(message, *arguments):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err

    refuses("not a language model of `nplstm train`", "sample", checkpoint)
    model.write_bytes(whole[: len(whole) // 2])
    refuses("not a whole safetensors file", "sample", model)
    model.write_text("a text")
    refuses("of no known kind", "sample", model)
    model.write_bytes(whole)
    tensors, metadata = read_tensors(model), metadata_of(model)
    for name in ("head.bias", "lstm.weight_ih_l0", "embedding.weight"):
        write_tensors(model, {k: a for k, a in tensors.items() if k != name}, metadata)
        refuses("the model in this file is damaged", "sample", model)
    write_tensors(model, tensors | {"evil": np.zeros(1)}, metadata)
    refuses("unexpected: evil", "sample", model)
    config = json.loads(metadata["config"])
    hostile = [("config", text) for text in ("[[", "[" * 100_000, "[]", "{}", "null")]
    hostile += [
        ("config", json.dumps(config | change))
        for change in (
            {"hidden_size": 10**9},
            {"num_layers": 10**6},
            {"embedding_size": -4},
            {"dropout": 10**400},
            {"more": 1},
        )
    ]
    hostile += [
        ("vocabulary", text) for text in ("[[", "[1, 2]", "null", "{}", '"aa"', '"\\ud800"', '"ab"', '["ab"]')
    ]
    for key, value in hostile:
        write_tensors(model, tensors, dict(metadata, **{key: value}))
        refuses("the model in this file is damaged", "sample", model)
    write_tensors(model, {name: array * np.float32("nan") for name, array in tensors.items()}, metadata)
    refuses("logits are infinite or NaN", "sample", model)
    write_tensors(model, tensors, metadata)
    model.replace(checkpoint)
    refuses("not a checkpoint of `nplstm train`", "train", text, "--out", out, "--resume")


def test_damaged_checkpoints_are_refused(text, tmp_path, capsys):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    path = out / "checkpoint.safetensors"
    tensors, metadata = read_tensors(path), metadata_of(path)
    capsys.readouterr()
    progress = json.loads(metadata["progress"])
    hostile = [
        ("settings", '{"x": 1}'),
        ("settings", '{"num_layers": 1000000}'),
        ("progress", "[]"),
        *(("source", text) for text in ("[", "5", "null", "[]")),
    ]
    hostile += [
        ("generator", text) for text in ("{}", "1", "[" * 100_000, '{"bit_generator": "PCG64", "state": -1}')
    ]
    hostile += [
        ("progress", json.dumps(progress | {key: value}))
        for key in progress
        for value in ("x", None, [1], -5, 1.5)
        if not (key in {"running_loss", "best"} and value == 1.5)
    ]
    for key, value in hostile:
        write_tensors(path, tensors, dict(metadata, **{key: value}))
        assert run("train", text, "--out", out, "--resume") == 2
        assert "damaged" in capsys.readouterr().err
    for name in ("model.lstm.weight_ih_l0", "optimizer.exp_avg.head.bias", "state.h", "evil.weight"):
        write_tensors(path, {**tensors, name: np.zeros(3, np.float32)}, metadata)
        assert run("train", text, "--out", out, "--resume") == 2
        assert "expected" in capsys.readouterr().err
    for name in ("optimizer.exp_avg.head.bias", "optimizer.step.head.bias", "state.c", "model.head.bias"):
        write_tensors(path, {k: a for k, a in tensors.items() if k != name}, metadata)
        assert run("train", text, "--out", out, "--resume") == 2
        assert name.removeprefix("model.") in capsys.readouterr().err
    write_tensors(path, {**tensors, "optimizer.step.head.bias": np.array(-1)}, metadata)
    assert run("train", text, "--out", out, "--resume") == 2
    assert "expected a count of steps, got -1" in capsys.readouterr().err
    write_tensors(path, tensors, metadata)
    assert run("train", "--out", out, "--resume", "--steps", 5) == 0  # and the text is found by itself


def test_a_full_disk_leaves_the_old_checkpoint(text, tmp_path):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 10, *SMALL)
    before = {path.name: digest(path) for path in out.iterdir()}
    code = (
        "import resource, signal, sys; from nplstm.commands.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", text, "--out", str(out), "--resume", "--steps", "30"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "nplstm: error:" in result.stderr
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name: digest(path) for path in out.iterdir()} == before


def test_sampling_is_reproducible_and_refuses_what_it_does_not_know(text, tmp_path, capsys):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    capsys.readouterr()
    outputs = []
    for seed in (3, 3, 4):
        run("sample", out, "--seed", seed, "--length", 60, "--temperature", 1.0)
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert run("sample", out, "--prompt", "@?", "--length", 5) == 2
    assert "not in the model's vocabulary: '?', '@'; the vocabulary is" in capsys.readouterr().err
    assert run("sample", out, "--temperature", -1) == 2
    assert "temperature: expected a number" in capsys.readouterr().err
    assert run("sample", out, "--length", -1) == 2
    assert "length: expected an integer >= 0" in capsys.readouterr().err
    for k in range(2):
        run("sample", out, "--temperature", 0, "--seed", k, "--length", 30)
        outputs[k] = capsys.readouterr().out
    assert outputs[0] == outputs[1]


def test_a_closed_pipe_is_no_error(text, tmp_path):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    command = f"{sys.executable} -m nplstm sample {out} --length 100000 --seed 0 | head -c 10"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, check=False)
    assert result.stderr == b""
    assert result.returncode == 141  # as of any program whose reader has gone


@pytest.mark.usefixtures("plain_engine")
def test_the_gradient_check_fails_on_a_wrong_gradient(text, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    monkeypatch.setattr("nplstm.core.cell.tanh_backward", lambda grad, y: grad)
    assert run("gradcheck", out, text) == 1
    assert "worst at" in capsys.readouterr().err


def test_no_command_and_a_wrong_one_end_with_2():
    for arguments in ([], ["fly"], ["train", "--steps", "many"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_the_default_text_is_cpythons_own():
    text = read_text(PYDOC)
    assert len(text) > 200_000
    assert "assert" in text


def test_streams_cover_the_text_in_order():
    inputs, targets = streams(np.arange(32), 3, window=5)
    assert inputs.T.tolist() == [list(range(10)), list(range(10, 20)), list(range(20, 30))]
    assert np.array_equal(targets, inputs + 1)
    assert streams(np.arange(7), 3, window=5)[0].shape == (6, 1)


def test_baselines_are_what_counting_gives():
    training, validation = np.array([0, 0, 1, 0, 1, 2]), np.array([0, 1, 0])
    p = np.array([4, 3, 2]) / 9
    assert unigram_bits(training, validation, 3) == pytest.approx(-np.log2(p[[1, 0]]).mean())
    after_0 = (2 + 2 * p[1]) / (3 + 2)  # 0 is followed by 0 once and by 1 twice
    after_1 = (1 + 2 * p[0]) / (2 + 2)
    assert bigram_bits(training, validation, 3) == pytest.approx(-np.log2([after_0, after_1]).mean())


def test_a_bigram_model_is_a_distribution():
    rng = np.random.default_rng(0)
    training = rng.integers(0, 5, 100)
    for a in range(6):  # 5 was never seen
        bits = [bigram_bits(training, np.array([a, b]), 6) for b in range(6)]
        assert sum(2.0**-x for x in bits) == pytest.approx(1)


def test_bits_per_character_agree_with_a_plain_loop(be):
    model = LanguageModel(
        Vocabulary("abcd"), embedding_size=3, hidden_size=5, dtype="float64", rng=0, backend=be.name
    )
    numbers = np.random.default_rng(0).integers(0, 4, 41)
    state, bits = None, []
    for now, following in itertools.pairwise(numbers):
        logits, state = model.logits(be.asarray(np.array([[now]])), state)
        scores = be.to_numpy(logits)[0, 0]
        bits.append(np.log2(np.exp(scores).sum()) - scores[following] / np.log(2))
    measured = model.bits_per_character(numbers, count=1, window=7)
    assert measured == pytest.approx(np.mean(bits), rel=1e-12)
    assert model.bits_per_character(numbers, count=3, window=7) == pytest.approx(np.mean(bits), rel=0.05)


def test_training_learns_on_this_backend(be):
    corpus = Corpus.of(TEXT, validation=0.1, window=16)
    settings = Settings(embedding_size=8, hidden_size=24, batch_size=4, window=16, steps=120, lr=0.02)
    trainer = Trainer(corpus, settings, backend=be.name)
    while not trainer.done:
        trainer.update()
    bits, _ = trainer.evaluate()
    parts = corpus.training, corpus.validation, len(corpus.vocabulary)
    assert bits < bigram_bits(*parts) < unigram_bits(*parts)


def test_a_model_that_is_saved_is_the_same_when_loaded(tmp_path, be):
    model = LanguageModel(
        Vocabulary("abü字"), embedding_size=3, hidden_size=5, num_layers=2, rng=0, backend=be.name
    )
    model.save(tmp_path / "m")
    again = LanguageModel.load(tmp_path / "m", backend=be.name)
    assert again.vocabulary == model.vocabulary
    assert again.config() == model.config()
    for name, array in model.parameters.items():
        assert np.array_equal(be.to_numpy(array), be.to_numpy(again.parameters[name]))


def test_unknown_characters_are_named():
    with pytest.raises(nplstm.ArgumentError, match="vocabulary: 'x'; the vocabulary is 'ab'"):
        Vocabulary("ab").encode("abx")
    with pytest.raises(nplstm.ArgumentError, match="each once"):
        Vocabulary("aa")


def test_the_gradient_check_leaves_dropout_out(text, tmp_path):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, "--num-layers", 2, "--dropout", 0.5, *SMALL)
    assert run("gradcheck", out, text) == 0


def test_the_gradient_check_asks_for_the_models_own_text(text, tmp_path, capsys):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    assert run("gradcheck", out) == 2
    assert "Name the text that it was trained on" in capsys.readouterr().err


def stop_at(monkeypatch, step, number=signal.SIGINT):
    update = Trainer.update

    def update_then_signal(trainer):
        bits = update(trainer)
        if trainer.progress.step == step:
            signal.raise_signal(number)
        return bits

    monkeypatch.setattr(Trainer, "update", update_then_signal)


def test_the_printed_command_goes_on(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a folder"
    folder.mkdir()
    text = folder / "süß text.txt"
    text.write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(folder)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGTERM)
        assert run("train", text.name, "--out", "-my run", "--steps", 6, *SMALL) == 143
    command = capsys.readouterr().out.strip().splitlines()[-1].strip()
    assert run(*shlex.split(command)[1:]) == 0


def test_starting_again_leaves_nothing_of_the_old_run(text, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    stop_at(monkeypatch, 2)
    assert run("train", text, "--out", out, "--overwrite", "--steps", 40, *SMALL) == 130
    assert [path.name for path in out.iterdir()] == ["checkpoint.safetensors"]
    capsys.readouterr()
    assert run("sample", out) == 2
    assert "the run has no model yet" in capsys.readouterr().err


def test_a_run_resumed_at_its_end_is_evaluated(text, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        assert run("train", text, "--out", out, "--steps", 40, *SMALL) == 130
    assert run("train", "--out", out, "--resume", "--steps", 7) == 0
    assert "(after 7 updates, the best of 1 evaluations)" in capsys.readouterr().out
    assert run("train", "--out", out, "--resume") == 0  # and once more: nothing left to do


def test_what_a_killed_run_left_is_cleaned_up(text, tmp_path):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    (out / ".model.safetensors.abc.part").touch()
    (out / ".mine.part").touch()
    run("train", "--out", out, "--resume", "--steps", 5)
    assert not (out / ".model.safetensors.abc.part").exists()
    assert (out / ".mine.part").exists()


@pytest.mark.parametrize("missing", ["safetensors", "tqdm"])
def test_a_missing_package_is_named_before_time_is_spent(missing, text, tmp_path, monkeypatch, capsys):
    from importlib import import_module

    def blocked(name):
        if name.partition(".")[0] == missing:
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr("nplstm.io._optional.import_module", blocked)
    monkeypatch.setattr("nplstm.commands.language_model.commands.import_module", blocked)
    monkeypatch.setattr(Trainer, "update", lambda trainer: pytest.fail("training has begun"))
    assert run("train", text, "--out", tmp_path / "run", *SMALL) == 2
    printed = capsys.readouterr().err
    assert f"{missing} is not installed" in printed
    assert f"pip install 'nplstm[{'train' if missing == 'tqdm' else missing}]'" in printed


def test_without_matplotlib_there_is_no_picture_but_a_model(text, tmp_path, monkeypatch, capsys):
    def blocked(name):
        raise ImportError(name)

    monkeypatch.setattr("nplstm.plotting.import_module", blocked)
    assert run("train", text, "--out", tmp_path / "run", "--steps", 4, *SMALL) == 0
    assert "picture   none: matplotlib is not installed" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named_before_time_is_spent(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "update", lambda trainer: pytest.fail("training has begun"))
    out = tmp_path / "file"
    out.touch()
    assert run("train", text, "--out", out, *SMALL) == 2
    assert "file" in capsys.readouterr().err


def test_a_run_that_diverges_stops_and_keeps_its_last_checkpoint(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", text, "--out", out, "--steps", 50, "--evaluate-every", 5, "--lr", 1e38, *SMALL) == 2
    assert "training has diverged: at update" in capsys.readouterr().err
    assert (out / "checkpoint.safetensors").exists()


def test_a_closed_pipe_stops_training_with_a_status(text, tmp_path):
    command = f"{sys.executable} -m nplstm train {text} --out {tmp_path / 'run'} --steps 4 {' '.join(SMALL)}"
    result = subprocess.run(
        ["bash", "-c", f"({command}; echo $? >{tmp_path / 'status'}) | true"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in result.stderr
    assert (tmp_path / "status").read_text().strip() in {"0", "141"}  # 0 where the reader went after the last line


def test_output_that_cannot_be_written_is_an_error(text, tmp_path):
    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    command = f"{sys.executable} -m nplstm sample {out} >/dev/full"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "No space left on device" in result.stderr
    assert "ignored" not in result.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_texts_characters_gets_escapes(encoding, text, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    monkeypatch.setenv("PYTHONUTF8", "0")
    command = [sys.executable, "-m", "nplstm"]
    options = ["train", text, "--out", str(out), "--steps", "4", *SMALL]
    for arguments in (options, ["sample", str(out), "--temperature", "5", "--seed", "0"]):
        result = subprocess.run(command + arguments, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
    assert b"\\u5b57" in result.stdout


def test_every_character_of_the_text_is_trained_on():
    corpus = Corpus.of(TEXT, validation=0.1, window=16)
    trainer = Trainer(corpus, Settings(embedding_size=2, hidden_size=2, batch_size=3, window=100, steps=99))
    seen = 0
    while trainer.progress.position < len(trainer._inputs):
        trainer.update()
        seen = trainer.progress.running_characters
    assert len(corpus.training) - 1 - 3 < seen <= len(corpus.training) - 1
    trainer.update()
    assert trainer.progress.position == 100  # a new pass


def test_a_vocabulary_of_thousands_needs_no_table_of_pairs():
    numbers = np.arange(30_000)
    assert bigram_bits(numbers, numbers, 30_000) < unigram_bits(numbers, numbers, 30_000)
    assert str(unigram_bits(np.zeros(9, int), np.zeros(9, int), 1)) == "0.0"


def test_numpys_numbers_are_settings(tmp_path):
    settings = Settings(
        embedding_size=np.int64(2),
        hidden_size=np.int32(2),
        steps=np.int64(2),
        lr=np.float32(0.01),
        window=np.int64(9),
    )
    trainer = Trainer(Corpus.of(TEXT, validation=0.1, window=9), settings)
    trainer.update()
    trainer.save(tmp_path / "c")


def test_a_language_models_state_dict_is_loaded_whole_or_not_at_all():
    model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3, rng=0)
    before = dict(model.parameters)
    wrong = {name: array + 1 for name, array in before.items()} | {"head.bias": np.zeros(9, np.float32)}
    with pytest.raises(nplstm.errors.StateDictError, match=r"head.bias: expected shape \(2,\), got \(9,\)"):
        model.load_state_dict(wrong)
    assert all(np.array_equal(model.parameters[name], array) for name, array in before.items())


def test_measuring_needs_two_characters():
    model = LanguageModel(Vocabulary("ab"), embedding_size=2, hidden_size=3, rng=0)
    with pytest.raises(nplstm.ArgumentError, match="expected at least 2 characters to measure on, got 1"):
        model.bits_per_character(np.array([0]))


def test_temperature_sharpens_and_flattens():
    """Frequencies of a million draws against the softmax, at three temperatures."""
    from nplstm.commands.language_model.network import _draw

    scores, rng = np.array([0.0, 1.0, 2.0]), np.random.default_rng(0)
    for temperature in (0.5, 1.0, 2.0):
        counts = np.bincount([_draw(scores, temperature, rng) for _ in range(20_000)], minlength=3)
        expected = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
        assert np.abs(counts / 20_000 - expected).max() < 0.015  # 4 standard errors


def test_the_learning_rate_warms_up_and_falls_to_a_tenth():
    settings = Settings(steps=1000, lr=1.0)
    rates = [settings.learning_rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 20)
    assert rates[19] == pytest.approx(1, abs=1e-2)
    assert rates[500] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert Settings(steps=1, lr=1.0).learning_rate(0) == pytest.approx(1)


def small_trainer(**options):
    corpus = Corpus.of(TEXT, validation=0.1, window=16)
    return Trainer(corpus, Settings(embedding_size=2, hidden_size=3, batch_size=3, window=400, steps=9, **options))


def test_each_pass_over_the_text_starts_from_a_zero_state(monkeypatch):
    trainer, states = small_trainer(), []
    gradients = LanguageModel.gradients

    def watch(model, x, y, state, **options):
        states.append((len(x), state))
        return gradients(model, x, y, state, **options)

    monkeypatch.setattr(LanguageModel, "gradients", watch)
    for _ in range(5):
        trainer.update()
    assert [steps for steps, _ in states] == [400, 400, 153, 400, 400]
    assert [state is None for _, state in states] == [True, False, False, True, False]
    assert states[1][1][0] is not states[4][1][0]


def test_an_infinite_gradient_stops_training_and_changes_nothing(monkeypatch):
    trainer = small_trainer()
    before = dict(trainer.model.parameters)
    monkeypatch.setattr(
        "nplstm.commands.language_model.trainer.clip_grad_norm", lambda grads, norm: (grads, float("inf"))
    )
    with pytest.raises(nplstm.DivergenceError, match=r"at update 1 the loss is .* the gradient's norm inf"):
        trainer.update()
    assert all(np.array_equal(trainer.model.parameters[name], array) for name, array in before.items())
    assert trainer.progress.step == 0


def test_the_model_that_is_kept_is_the_best_one(text, tmp_path, monkeypatch, capsys):
    out, measured = tmp_path / "run", iter([3.0, 2.0, 2.5, 2.2])
    kept = {}
    monkeypatch.setattr(LanguageModel, "bits_per_character", lambda model, numbers: next(measured))
    evaluate = Trainer.evaluate

    def remember(trainer):
        result = evaluate(trainer)
        kept[trainer.progress.step] = np.asarray(trainer.model.parameters["head.bias"]).copy()
        return result

    monkeypatch.setattr(Trainer, "evaluate", remember)
    assert run("train", text, "--out", out, "--steps", 8, "--evaluate-every", 2, *SMALL) == 0
    assert "2.000   (after 4 updates, the best of 4 evaluations)" in capsys.readouterr().out
    assert np.array_equal(LanguageModel.load(out / "model.safetensors").parameters["head.bias"], kept[4])


@pytest.fixture
def heard():
    """Ctrl-C as Python hears it: a process of pytest-xdist does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_a_second_ctrl_c_stops_at_once(text, tmp_path, monkeypatch, capsys):
    def interrupt_twice(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was not heard")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Trainer, "update", interrupt_twice)
    assert run("train", text, "--out", tmp_path / "run", *SMALL) == 130
    assert "again to stop at once" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_missing_gpu_is_not_a_damaged_file(text, tmp_path, monkeypatch, capsys):
    from nplstm.backends import _cupy

    def missing(name):
        raise ModuleNotFoundError(name)

    out = tmp_path / "run"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    monkeypatch.setattr(_cupy, "import_module", missing)
    monkeypatch.delitem(nplstm.backends._LOADED, "cupy", raising=False)
    for command in ("sample", "gradcheck"):
        assert run(command, out, "--backend", "cupy") == 2
        printed = capsys.readouterr().err
        assert "CuPy is not installed" in printed
        assert "damaged" not in printed


def test_a_text_that_was_moved_is_named_and_then_remembered(text, tmp_path, monkeypatch, capsys):
    out, moved = tmp_path / "run", tmp_path / "moved.txt"
    run("train", text, "--out", out, "--steps", 4, *SMALL)
    Path(text).rename(moved)
    capsys.readouterr()
    assert run("train", "--out", out, "--resume", "--steps", 5) == 2
    assert "name the run's text" in capsys.readouterr().err
    assert run("train", moved, "--out", out, "--resume", "--steps", 5) == 0
    assert run("train", "--out", out, "--resume", "--steps", 6) == 0


class Gone(io.StringIO):
    """A stderr whose reader goes away: what `2>&1 | tee log` becomes at Ctrl-C."""

    gone = False

    def write(self, text):
        if self.gone:
            raise BrokenPipeError
        return super().write(text)


def test_ctrl_c_that_also_ends_the_reader_of_stderr_saves_whole_updates(text, tmp_path, monkeypatch):
    common = ["--steps", 12, "--evaluate-every", 100, *SMALL]
    assert run("train", text, "--out", tmp_path / "whole", *common) == 0
    gradients = LanguageModel.gradients
    stderr, calls = Gone(), []

    def interrupt_within_an_update(*arguments, **options):
        calls.append(None)
        if len(calls) == 7:
            stderr.gone = True
            signal.raise_signal(signal.SIGINT)
        return gradients(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "gradients", interrupt_within_an_update)
        patch.setattr(sys, "stderr", stderr)
        assert run("train", text, "--out", tmp_path / "parts", *common) == 141
    metadata = metadata_of(tmp_path / "parts" / "checkpoint.safetensors")
    assert json.loads(metadata["progress"])["step"] == 7
    assert run("train", "--out", tmp_path / "parts", "--resume") == 0
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert digest(tmp_path / "whole" / name) == digest(tmp_path / "parts" / name)
