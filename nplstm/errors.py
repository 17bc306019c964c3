"""Every error that nplstm raises on purpose, in one tree.

::

    NplstmError
    ├── ShapeError               (ValueError)      an array has the wrong rank or size
    ├── DTypeError               (TypeError)       an array or option has the wrong element type
    ├── BackendError             (TypeError)       not an array, or arrays of two backends or devices
    ├── BackendUnavailableError  (ImportError)     a backend is not installed, or finds no device
    ├── DeviceError              (RuntimeError)    a kernel on a GPU could not do its work
    ├── ArgumentError            (ValueError)      an option or argument has a value that means nothing
    ├── StateDictError           (RuntimeError)    a mapping does not fit the parameters
    ├── MissingDependencyError   (ImportError)     an optional package is not installed
    ├── FileFormatError          (ValueError)      a file is not what it should be
    ├── DivergenceError          (ArithmeticError) a loss is no number any more
    └── GradcheckError           (AssertionError)  a gradient is wrong

Each one is also the built-in error that a caller would expect, so that both ``except NplstmError`` and
``except ValueError`` work. A message names the argument, what was expected and what came.
"""


class NplstmError(Exception):
    """The root of the tree: catches all that nplstm raises on purpose."""


class ShapeError(NplstmError, ValueError):
    """An array has the wrong number of axes, or an axis has the wrong size."""


class DTypeError(NplstmError, TypeError):
    """An array or option has an element type that does not fit; nothing is cast silently."""


class BackendError(NplstmError, TypeError):
    """Something is not an array of a known library, or arrays live in different places."""


class BackendUnavailableError(NplstmError, ImportError):
    """A backend was asked for that is not installed, or that finds no device."""


class DeviceError(NplstmError, RuntimeError):
    """A kernel on a GPU has no room to run, or gave up waiting: what it computed must not be used."""


class ArgumentError(NplstmError, ValueError):
    """An option or argument has a value that has no meaning."""


class StateDictError(NplstmError, RuntimeError):
    """A mapping of names to arrays does not fit the parameters it is meant for."""


class MissingDependencyError(NplstmError, ImportError):
    """An optional package is needed and is not installed."""


class FileFormatError(NplstmError, ValueError):
    """A file is damaged, or is of another kind than was asked for."""


class DivergenceError(NplstmError, ArithmeticError):
    """Training has gone astray: the loss or a gradient is infinite or NaN."""


class GradcheckError(NplstmError, AssertionError):
    """An analytic gradient does not agree with the numerical one."""
