"""SGD, Adam and AdamW, with torch's semantics and defaults, on any mapping of name to array.

A step replaces ``parameters[name]`` by item assignment: a layer's ``parameters``, a ``JoinedParameters`` or a
plain dict all work. An optimizer's state is saved by ``state_dict`` and restored by ``load_state_dict``.
"""

from abc import ABC, abstractmethod
from collections.abc import MutableMapping

from nplstm._shapes import check_flag, check_mapping, check_number, check_pair
from nplstm._typing import Array, Arrays
from nplstm.backends import backend_of, check_arrays, namespace, transfer
from nplstm.core.params import host_integer
from nplstm.errors import ArgumentError, DTypeError, StateDictError

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]


class Optimizer(ABC):
    """Base class of the optimizers: parameters, learning rate, and state.

    The state has an array for each slot and parameter; slots are torch's, as ``exp_avg``. See ``SGD`` and ``Adam``
    for examples.
    """

    def __init__(
        self, parameters: MutableMapping[str, Array], lr: float, weight_decay: float, maximize: bool
    ) -> None:
        check_mapping("parameters", parameters)
        self.parameters = parameters
        self.lr = lr
        self.weight_decay = check_number("weight_decay", weight_decay, minimum=0.0)
        self.maximize = check_flag("maximize", maximize)
        self._memory: dict[str, Array] = {}
        self._steps: dict[str, int] = {}  # by name of a parameter

    @property
    def lr(self) -> float:
        """The learning rate; may be set between steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        # a Python float: one of NumPy's would widen float32 parameters
        self._lr = check_number("lr", value, minimum=0.0)

    @property
    @abstractmethod
    def _slots(self) -> tuple[str, ...]:
        """Names of the arrays that are kept for each parameter, torch's."""

    @abstractmethod
    def _update(self, name: str, parameter: Array, grad: Array) -> Array:
        """Return the new value of a parameter."""

    def step(self, grads: Arrays) -> None:
        """Replace each parameter that has a gradient.

        Parameters
        ----------
        grads : mapping of name to Array
            Shaped like the parameters of the same names. A parameter without a gradient stays as it is.

        Raises
        ------
        StateDictError
            If a gradient's name is not a parameter's, or its shape is another; no parameter is changed.
        DTypeError, BackendError
            If a gradient's element type or backend is not its parameter's, or the optimizer's state is on another
            one, because the parameters have been moved; no parameter is changed.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> parameters = {"a": np.array([1.0]), "b": np.array([1.0])}
        >>> nplstm.SGD(parameters, lr=0.5).step({"a": np.array([1.0])})
        >>> parameters
        {'a': array([0.5]), 'b': array([1.])}
        """
        check_mapping("grads", grads)
        for name, grad in grads.items():
            if name not in self.parameters:
                raise StateDictError(f"grads: {name!r} is no parameter; there are {list(self.parameters)}")
            old = self.parameters[name]
            check_arrays(f"the parameter {name!r}", backend_of(old, name), old.dtype, **{name: grad})
            if old.dtype.kind != "f":
                raise DTypeError(f"{name}: expected a parameter of floats, got {old.dtype}")
            if grad.shape != old.shape:
                raise StateDictError(f"grads: {name}: expected shape {old.shape}, got {grad.shape}")
            remembered = {
                key: self._memory[key] for slot in self._slots if (key := f"{slot}.{name}") in self._memory
            }
            check_arrays(
                f"the parameter {name!r} (move it before the optimizer is made)",
                backend_of(old),
                old.dtype,
                **remembered,
            )
        for name, grad in grads.items():
            self._steps[name] = self._steps.get(name, 0) + 1
            signed = -grad if self.maximize else grad
            old = self.parameters[name]
            # asarray: NumPy's arithmetic makes scalars of arrays without axes
            self.parameters[name] = backend_of(old).asarray(self._update(name, old, signed))

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the state's arrays, named ``slot.parameter``.

        ``step.parameter`` counts a parameter's steps, as a 0-d NumPy array; the other slots are torch's.
        Options, the learning rate among them, are not part of it.

        >>> import numpy as np, nplstm
        >>> optimizer = nplstm.Adam({"w": np.array([1.0])})
        >>> optimizer.step({"w": np.array([5.0])})
        >>> list(optimizer.state_dict())
        ['step.w', 'exp_avg.w', 'exp_avg_sq.w']
        """
        counts = {f"step.{name}": host_integer(count) for name, count in self._steps.items()}
        return counts | {key: array.copy() for key, array in self._memory.items()}

    def load_state_dict(self, state_dict: Arrays) -> None:
        """Replace the state by one that ``state_dict`` returned.

        Raises
        ------
        StateDictError
            If an array belongs to no parameter or slot, or has another shape or element type; names all of
            them, and loads nothing.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> first, second = (nplstm.Adam({"w": np.array([1.0])}) for _ in range(2))
        >>> first.step({"w": np.array([5.0])})
        >>> second.load_state_dict(first.state_dict())
        >>> int(second.state_dict()["step.w"])
        1
        """
        check_mapping("state_dict", state_dict)
        problems: list[str] = []
        memory: dict[str, Array] = {}
        steps: dict[str, int] = {}
        for key, value in state_dict.items():
            slot, _, name = str(key).partition(".")
            backend_of(value, str(key))
            if slot not in {"step", *self._slots} or name not in self.parameters:
                problems.append(f"unexpected: {key}")
                continue
            old = self.parameters[name]
            expected = ((), "int64") if slot == "step" else (old.shape, str(old.dtype))
            if (value.shape, str(value.dtype)) != expected:
                problems.append(f"{key}: expected {expected[1]} {expected[0]}, got {value.dtype} {value.shape}")
            elif slot == "step" and value < 0:
                problems.append(f"{key}: expected a count of steps, got {value}")
            elif slot == "step":
                steps[name] = int(value)
            else:
                memory[key] = transfer(value, backend_of(old)).copy()
        if problems:
            raise StateDictError("state_dict does not fit; nothing was loaded:\n  " + "\n  ".join(problems))
        self._memory, self._steps = memory, steps

    def _recall(self, slot: str, name: str, like: Array) -> Array:
        """Return the array of a slot and parameter, to be updated in place; zeros at first."""
        key = f"{slot}.{name}"
        if key not in self._memory:
            self._memory[key] = namespace(like).zeros_like(like)
        return self._memory[key]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum; as ``torch.optim.SGD``.

    ::

        d = grad + weight_decay * p
        v = momentum * v + (1 - dampening) * d          (v = d at a parameter's first step)
        p = p - lr * v                                  (nesterov: lr * (d + momentum * v))

    Parameters
    ----------
    parameters : mutable mapping of name to Array
    lr : float >= 0
    momentum, weight_decay : float >= 0
    dampening : float
    nesterov : bool
        Needs momentum, and no dampening.
    maximize : bool
        Whether to maximize the loss instead.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> parameters = {"w": np.array([1.0, 2.0])}
    >>> nplstm.SGD(parameters, lr=0.5).step({"w": np.array([1.0, -1.0])})
    >>> parameters["w"]
    array([0.5, 2.5])
    """

    def __init__(
        self,
        parameters: MutableMapping[str, Array],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay, maximize)
        self.momentum = check_number("momentum", momentum, minimum=0.0)
        self.dampening = check_number("dampening", dampening)
        self.nesterov = check_flag("nesterov", nesterov)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ArgumentError(
                f"nesterov: needs momentum > 0 and dampening = 0, got momentum={momentum}, dampening={dampening}"
            )

    @property
    def _slots(self) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def _update(self, name: str, parameter: Array, grad: Array) -> Array:
        direction = grad + self.weight_decay * parameter if self.weight_decay else grad
        if self.momentum:
            first = f"momentum_buffer.{name}" not in self._memory
            velocity = self._recall("momentum_buffer", name, parameter)
            velocity *= self.momentum
            velocity += direction if first else (1 - self.dampening) * direction
            direction = direction + self.momentum * velocity if self.nesterov else velocity
        return parameter - self.lr * direction


class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015), as ``torch.optim.Adam``: weight decay is added to the gradient.

    ::

        m = b1 * m + (1 - b1) * g                v = b2 * v + (1 - b2) * g**2
        p = p - lr * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)          t = 1, 2, ...: p's own steps

    Parameters
    ----------
    parameters : mutable mapping of name to Array
    lr : float >= 0
    betas : (b1, b2), each in [0, 1)
    eps : float >= 0
    weight_decay : float >= 0
    amsgrad : bool
        Divide by the largest v so far (Reddi et al., 2018).
    maximize : bool
        Whether to maximize the loss instead.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> parameters = {"w": np.array([1.0])}
    >>> nplstm.Adam(parameters, lr=0.1).step({"w": np.array([5.0])})
    >>> parameters["w"].round(6)
    array([0.9])
    """

    _decoupled = False

    def __init__(
        self,
        parameters: MutableMapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay, maximize)
        pair = check_pair("betas", ("b1", "b2"), betas)
        self.betas = tuple(check_number(f"betas[{k}]", beta, minimum=0.0) for k, beta in enumerate(pair))
        if max(self.betas) >= 1:
            raise ArgumentError(f"betas: expected two numbers in [0, 1), got {betas!r}")
        self.eps = check_number("eps", eps, minimum=0.0)
        self.amsgrad = check_flag("amsgrad", amsgrad)

    @property
    def _slots(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def _update(self, name: str, parameter: Array, grad: Array) -> Array:
        xp = namespace(parameter)
        (beta1, beta2), t = self.betas, self._steps[name]
        m, v = self._recall("exp_avg", name, parameter), self._recall("exp_avg_sq", name, parameter)
        largest = self._recall("max_exp_avg_sq", name, parameter) if self.amsgrad else v
        if self.weight_decay and self._decoupled:
            parameter = parameter * (1 - self.lr * self.weight_decay)
        elif self.weight_decay:
            grad = grad + self.weight_decay * parameter
        m += (grad - m) * (1 - beta1)
        v *= beta2
        v += (1 - beta2) * (grad * grad)
        if self.amsgrad:
            xp.maximum(largest, v, out=largest)
        root = xp.sqrt(largest) / (1 - beta2**t) ** 0.5 + self.eps
        return parameter - (self.lr / (1 - beta1**t)) * (m / root)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019), as ``torch.optim.AdamW``.

    Before Adam's step, ``p = p * (1 - lr * weight_decay)``; the gradient has no part in the decay. Parameters
    are those of ``Adam``, but ``weight_decay`` is 0.01 by default.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> parameters = {"w": np.array([1.0])}
    >>> nplstm.AdamW(parameters, lr=0.1, weight_decay=0.5).step({"w": np.array([0.0])})
    >>> parameters["w"]
    array([0.95])
    """

    _decoupled = True

    def __init__(
        self,
        parameters: MutableMapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
