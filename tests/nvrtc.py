"""Compilation of CUDA kernels by NVRTC, without a GPU, and the resource usage that its assembler reports."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "CompileError",
    "Compiled",
    "Compiler",
    "Entry",
    "Job",
    "compile_to_ptx",
    "missing",
    "problems",
    "stored",
    "values",
]

ASSEMBLER = ("-Xptxas", "-v")  # makes the assembler say what a kernel takes
REGISTERS, MOST_REGISTERS = 65536, 255  # of a multiprocessor; of a thread
PARAMETERS = 4096  # bytes that a launch brings along on every device
OLDEST = (13, 4)  # before, it took memory for what fills all registers


class CompileError(Exception):
    """The compiler did not take a kernel; the message is its log."""


class Job(NamedTuple):
    """What is to be compiled, and for which chip: sm_80."""

    text: str
    options: tuple[str, ...]
    architecture: str


class Entry(NamedTuple):
    """What a kernel takes, in bytes but for the registers."""

    registers: int  # of a thread
    stack: int
    spills: int  # stores and loads
    block_memory: int  # without what a launch adds
    parameters: int


class Compiled(NamedTuple):
    """What became of a job."""

    log: str
    entries: dict[str, Entry]  # by the kernel's name
    instructions: list[str]  # of PTX, which machine code is made from; each once

    @property
    def complaints(self) -> list[str]:
        """Lines of the log that the compiler or the assembler would not write if all were well."""
        return [line for line in self.log.splitlines() if re.search(r"warning|advisory|remark|error", line, re.I)]


def missing() -> str:
    """Say why nothing can be compiled here; say nothing if it can.

    To be called before there are threads: old bindings look for the library in each, and find it in one.
    """
    try:
        from cuda.bindings import nvrtc

        version = nvrtc.nvrtcVersion()[1:]
        _version()
    except (ImportError, RuntimeError, OSError) as error:
        return f"cuda-bindings and nvidia-cuda-nvrtc, which compile kernels, are not installed: {error}"
    return "" if version >= OLDEST else f"NVRTC is {version}, and kernels are fitted to {OLDEST}"


def problems(compiled: Compiled, threads: int) -> list[str]:
    """List what is wrong with kernels that are launched in blocks of so many threads."""
    found = list(compiled.complaints)
    for name, entry in compiled.entries.items():
        most = min(MOST_REGISTERS, REGISTERS // threads)
        wrong = {
            f"{entry.registers} registers, and a thread may have {most}": entry.registers > most,
            f"{entry.spills} bytes of spilled registers": entry.spills,
            f"{entry.stack} bytes of stack": entry.stack,
            f"{entry.block_memory} bytes of shared memory that no plan counts": entry.block_memory,
            f"{entry.parameters} bytes of parameters": entry.parameters > PARAMETERS,
        }
        found += [f"{name}: {what}" for what, is_so in wrong.items() if is_so]
    found += [f"PTX has {name}" for name in compiled.instructions if ".local" in name]
    return found


# --- compiling ---------------------------------------------------------------------------------------------------


def _compile(job: Job) -> Compiled:
    log, ptx = _run(job.text, (f"--gpu-architecture={job.architecture}", *job.options, *ASSEMBLER))
    instructions = re.findall(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)(?:\s[^;]*)?;", ptx, re.MULTILINE)
    return Compiled(log, _entries(log, ptx), sorted(set(instructions)))


def compile_to_ptx(text: str, options: tuple[str, ...]) -> str:
    """Return what comes out of the compiler, before the assembler."""
    return _run(text, ("--gpu-architecture=compute_80", *options))[1]


def _run(text: str, options: tuple[str, ...]) -> tuple[str, str]:
    """Compile; return the log and PTX."""
    from cuda.bindings import nvrtc

    program = _value(nvrtc.nvrtcCreateProgram(text.encode(), b"kernel.cu", 0, [], []))
    try:
        result, *_ = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = _text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        if result:
            raise CompileError(f"{result.name}\n{log}")
        return log, _text(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    finally:
        _value(nvrtc.nvrtcDestroyProgram(program))


def _value(answer: tuple[Any, ...]) -> Any:
    """Return what a call gave beside its result, if it went well."""
    result, *given = answer
    if result:
        raise RuntimeError(f"NVRTC: {result.name}")
    return given[0] if given else None


def _text(program: Any, size_of: Callable[..., Any], get: Callable[..., Any]) -> str:
    text = b" " * _value(size_of(program))  # written to, as the bindings want it
    _value(get(program, text))
    return text.rstrip(b"\0").decode()


@functools.cache
def _version() -> str:
    """Return what tells this compiler, and what is read of its output here, from others."""
    ptx = compile_to_ptx('extern "C" __global__ void nothing() {}', ())
    return ptx + Path(__file__).read_text(encoding="utf-8")


# --- reading -----------------------------------------------------------------------------------------------------


def _entries(log: str, ptx: str) -> dict[str, Entry]:
    """Read what is said of each kernel, and of the functions that it calls."""
    _, *parts = re.split(r"Compiling entry function '(\w+)'", log)
    return {name: _entry(name, said, ptx) for name, said in zip(parts[::2], parts[1::2], strict=True)}


def _entry(name: str, said: str, ptx: str) -> Entry:
    def most(pattern: str, text: str = said) -> int:
        found = re.findall(pattern, text)
        if not found:
            raise ValueError(f"{name}: nothing is like {pattern!r} in what the assembler says:\n{said}")
        return max(map(int, found))

    return Entry(
        registers=most(r"Used (\d+) registers"),
        stack=most(r"(\d+) bytes stack frame"),
        spills=most(r"(\d+) bytes spill stores") + most(r"(\d+) bytes spill loads"),
        block_memory=most(r"(\d+) bytes smem", said + "0 bytes smem"),  # it says nothing where there is none
        parameters=most(rf"\.param .*\.b8 {name}_param_0\[(\d+)\]", ptx),
    )


def values(text: str, options: tuple[str, ...], expressions: Sequence[str]) -> list[int]:
    """Return what constants come to as the compiler sees them, behind the text."""
    lines = (f'extern "C" __device__ long long value_{k} = {one};' for k, one in enumerate(expressions))
    ptx = compile_to_ptx("\n".join((text, *lines, "")), options)
    found = dict(re.findall(r"\.[su]64 value_(\d+)(?: = (-?\d+))?;", ptx))
    return [int(found[str(k)] or 0) for k in range(len(expressions))]  # a zero is left out


def stored(text: str, options: tuple[str, ...], name: str) -> int:
    """Return the number that a kernel stores in a variable, if the compiler knows it."""
    ptx = compile_to_ptx(text, options)
    found = re.findall(rf"st\.global\.u64\s+\[{name}\], (%\w+);", ptx)
    numbers = dict(re.findall(r"mov\.[bu]64\s+(%\w+), (\d+);", ptx))
    if len(found) != 1 or found[0] not in numbers:
        raise ValueError(f"not one number is stored in {name}:\n{ptx}")
    return int(numbers[found[0]])


# --- many --------------------------------------------------------------------------------------------------------


class Compiler:
    """Compiles in the background, each job once.

    What became of one is kept in a folder for later runs, if there is a folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder, self._begun = folder, dict[Job, Future[Compiled]]()
        self._pool = ThreadPoolExecutor(os.cpu_count())  # NVRTC runs without Python's lock

    def begin(self, jobs: Iterable[Job]) -> None:
        """Compile these, in this order."""
        for job in jobs:
            self._future(job)

    def __call__(self, job: Job) -> Compiled:
        """Return what became of a job."""
        return self._future(job).result()

    def close(self) -> None:
        """Leave what has not begun."""
        self._pool.shutdown(cancel_futures=True)

    def _future(self, job: Job) -> Future[Compiled]:
        if job not in self._begun:
            self._begun[job] = self._pool.submit(self._result, job)
        return self._begun[job]

    def _result(self, job: Job) -> Compiled:
        if self._folder is None:
            return _compile(job)
        kept = self._folder / hashlib.sha256(repr((_version(), *job)).encode()).hexdigest()
        if kept.exists():
            log, entries, instructions = json.loads(kept.read_text(encoding="utf-8"))
            return Compiled(log, {name: Entry(*entry) for name, entry in entries.items()}, instructions)
        made = _compile(job)
        whole = kept.with_suffix(f".{os.getpid()}")  # another process may do the same
        whole.write_text(json.dumps(made), encoding="utf-8")
        whole.replace(kept)
        return made
