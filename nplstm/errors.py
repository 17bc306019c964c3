"""Exceptions that nplstm raises, all derived from ``NplstmError``.

::

    NplstmError
    ├── ShapeError               (ValueError)      an array has the wrong number of axes or size
    ├── DTypeError               (TypeError)       an array or option has the wrong element type
    ├── BackendError             (TypeError)       not an array, or arrays of two backends or devices
    ├── BackendUnavailableError  (ImportError)     a backend is not installed, or finds no device
    ├── DeviceError              (RuntimeError)    a kernel on a GPU failed
    ├── ArgumentError            (ValueError)      an option or argument has an invalid value
    ├── StateDictError           (RuntimeError)    a mapping does not fit the parameters
    ├── MissingDependencyError   (ImportError)     an optional package is not installed
    ├── FileFormatError          (ValueError)      a file is damaged, or not of the expected format
    ├── DivergenceError          (ArithmeticError) a loss or a gradient is infinite or NaN
    └── GradcheckError           (AssertionError)  a gradient is wrong

Each one is also the built-in error that a caller would expect, so that both ``except NplstmError`` and
``except ValueError`` work. A message names the argument, the value expected and the value given.
"""


class NplstmError(Exception):
    """Base class of all exceptions that nplstm raises."""


class ShapeError(NplstmError, ValueError):
    """An array has the wrong number of axes, or an axis has the wrong size."""


class DTypeError(NplstmError, TypeError):
    """An array or option has an element type that does not fit; nothing is cast silently."""


class BackendError(NplstmError, TypeError):
    """A value is not an array of NumPy or CuPy, or arrays are on different backends or devices."""


class BackendUnavailableError(NplstmError, ImportError):
    """A backend is not installed, or finds no device."""


class DeviceError(NplstmError, RuntimeError):
    """A kernel on a GPU has no room to run, or its blocks waited too long; its results are invalid."""


class ArgumentError(NplstmError, ValueError):
    """An option or argument has an invalid value, or two of them cannot be combined."""


class StateDictError(NplstmError, RuntimeError):
    """A mapping of names to arrays does not fit the parameters."""


class MissingDependencyError(NplstmError, ImportError):
    """An optional package is needed and is not installed."""


class FileFormatError(NplstmError, ValueError):
    """A file is damaged, or not of the expected format."""


class DivergenceError(NplstmError, ArithmeticError):
    """Training has diverged: the loss or a gradient is infinite or NaN."""


class GradcheckError(NplstmError, AssertionError):
    """An analytic gradient does not agree with the numerical one."""
