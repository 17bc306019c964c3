"""``CellSpec``: the options of an LSTM cell, by which it becomes a variant of the standard one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self, cast

from nplstm._shapes import check_choice, check_flag, check_number
from nplstm.core.ops.activations import Activation, as_activation
from nplstm.errors import ArgumentError

__all__ = ["CellSpec"]

STANDARD_ACTIVATIONS = (Activation("Sigmoid"), Activation("Tanh"), Activation("Tanh"))


@dataclass(frozen=True)
class CellSpec:
    """The options of an LSTM cell. Without any it is the standard cell; almost all of them can be combined.

    One step with all options; a line whose option is off becomes that of the standard cell (s, a, d: the three
    activations; * is elementwise; masks m are ones unless drawn)::

        a_t = N(W_ih (m_x * x_t)) + b_ih + N((m_w * W_hh) (m_r * r_{t-1})) + b_hh
        i_t = s(clip(a_i + p_i(c_{t-1})))         f_t = s(clip(a_f + p_f(c_{t-1})))      coupled: f_t = 1 - i_t
        g_t = a(clip(a_g))
        c'_t = cell_clip(f_t * c_{t-1} + i_t * g_t)                 layer_norm="cell_state": c'_t = N(...) + b_c
        o_t = s(clip(a_o + p_o(c'_t)))
        h'_t = o_t * d(c'_t)                                        layer_norm="cell_output": d(N(c'_t) + b_c)
        c_t = z_c * c_{t-1} + (1 - z_c) * c'_t
        h_t = z_h * h_{t-1} + (1 - z_h) * h'_t                      proj_size: with W_hr h'_t for h'_t

    r_{t-1} is h_{t-1}, or what a hidden transform makes of it. N is layer normalisation with a gain.

    Parameters
    ----------
    peephole : {None, "diagonal", "full"}
        How gates read the cell state: parameter ``weight_ch`` (3H,), a weight per cell (Gers & Schmidhuber 2000),
        or (3H, H), matrices; gates in the order i, f, o; (2H...), i and o, where the input gate is coupled.
    coupled_input_forget : bool
        f_t = 1 - i_t (Greff et al. 2017, "CIFG"). There is no forget gate then: weights and biases have 3H rows,
        in the order i, g, o.
    activations : three of Activation, str or (name, alpha, beta)
        s for the gates, a for the candidate, d for the cell's output (ONNX's f, g, h); see ``Activation`` for the
        names.
    clip : float, optional
        Bounds the gates' pre-activations to [-clip, clip] (ONNX). The gradient is zero where it clips, and at the
        bound itself.
    cell_clip : float, optional
        Bounds the cell state to [-cell_clip, cell_clip] (cuDNN), with the same gradient.
    layer_norm : {None, "cell_output", "cell_state"}
        Normalises both products over all gates, and the cell. "cell_output" (Ba et al. 2016): the raw c_t is
        carried on, and h_t reads the normalised one. "cell_state": the normalised c_t is carried on. Parameters
        ``gain_ih`` and ``gain_hh`` (4H,), ``gain_c`` and, with biases, ``bias_c`` (H,); ``bias_ih`` and
        ``bias_hh`` are the norms' own.
    layer_norm_eps : float
        Added to the variance.
    input_dropout : float in [0, 1]
        Probability of zeroing an element of x; one mask for all steps of a sequence (Gal & Ghahramani 2016).
    recurrent_dropout : float in [0, 1]
        Probability of zeroing an element of r_{t-1}.
    recurrent_dropout_mask : {"fixed", "step"}
        One mask for all steps of a sequence (variational: Gal & Ghahramani 2016), or a fresh one at each step.
    weight_dropout : float in [0, 1]
        Probability of zeroing an element of W_hh; one mask for all steps and sequences (DropConnect as in Merity
        et al. 2018).
    zoneout_h, zoneout_c : float in [0, 1]
        Probability of an element of h, or c, keeping its value (Krueger et al. 2017); drawn at each step.
    init_ih, init_hh : {"uniform", "xavier_uniform", "xavier_normal", "orthogonal"}
        Initial distribution of ``weight_ih`` and ``weight_hh``: U(-1/sqrt(H), 1/sqrt(H)) as in torch; Glorot &
        Bengio (2010); a matrix with orthonormal columns (or rows, where it is wide).
    init_bias : {"uniform", "zeros"}
        Initial distribution of the biases.
    forget_bias : float, optional
        Initial value of ``bias_ih + bias_hh`` at the forget gate: 1 keeps the memory open (Gers et al. 2000,
        Jozefowicz et al. 2015).

    Notes
    -----
    All masks are drawn in ``record`` from its generator, kept on the tape, and scaled by 1 / (1 - p).
    Inference (a plain call, or ``record(training=False)``) has no masks, and blends by zoneout's probability:
    z is the number itself.

    Raises
    ------
    ArgumentError
        For an invalid value, or for ``forget_bias`` with ``coupled_input_forget``, which has no forget gate.

    Examples
    --------
    >>> import nplstm
    >>> spec = nplstm.CellSpec(peephole="diagonal", activations=("hard_sigmoid", "tanh", "tanh"))
    >>> spec
    CellSpec(peephole='diagonal', activations=('HardSigmoid', 'Tanh', 'Tanh'))
    >>> nplstm.CellSpec.from_dict(spec.to_dict()) == spec
    True
    """

    peephole: str | None = None
    coupled_input_forget: bool = False
    activations: tuple[Activation, Activation, Activation] = STANDARD_ACTIVATIONS
    clip: float | None = None
    cell_clip: float | None = None
    layer_norm: str | None = None
    layer_norm_eps: float = 1e-5
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    recurrent_dropout_mask: str = "fixed"
    weight_dropout: float = 0.0
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    init_ih: str = "uniform"
    init_hh: str = "uniform"
    init_bias: str = "uniform"
    forget_bias: float | None = None

    _CHOICES: ClassVar[dict[str, tuple[str | None, ...]]] = {
        "peephole": (None, "diagonal", "full"),
        "layer_norm": (None, "cell_output", "cell_state"),
        "recurrent_dropout_mask": ("fixed", "step"),
        "init_ih": ("uniform", "xavier_uniform", "xavier_normal", "orthogonal"),
        "init_hh": ("uniform", "xavier_uniform", "xavier_normal", "orthogonal"),
        "init_bias": ("uniform", "zeros"),
    }
    _PROBABILITIES: ClassVar = ("input_dropout", "recurrent_dropout", "weight_dropout", "zoneout_h", "zoneout_c")

    def __post_init__(self) -> None:
        for name, choices in self._CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        coupled = check_flag("coupled_input_forget", self.coupled_input_forget)
        object.__setattr__(self, "coupled_input_forget", coupled)
        numbers = {
            name: check_number(name, getattr(self, name), minimum=0, maximum=1) for name in self._PROBABILITIES
        }
        for name in ("clip", "cell_clip", "layer_norm_eps"):
            if getattr(self, name) is not None or name == "layer_norm_eps":
                numbers[name] = check_number(name, getattr(self, name), above=0.0, finite=True)
        if self.forget_bias is not None:
            numbers["forget_bias"] = check_number("forget_bias", self.forget_bias, finite=True)
        if self.forget_bias is not None and self.coupled_input_forget:
            raise ArgumentError(
                f"forget_bias={self.forget_bias!r} sets the forget gate's bias, and coupled_input_forget=True has "
                f"no forget gate (f = 1 - i): give one of the two"
            )
        for name, value in numbers.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "activations", _three_activations(self.activations))

    @property
    def gates(self) -> int:
        """How many gates have weights: 4, or 3 where input and forget gate are coupled.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.CellSpec(coupled_input_forget=True).gates
        3
        """
        return 3 if self.coupled_input_forget else 4

    @property
    def peepholes(self) -> int:
        """How many gates read the cell state through peepholes.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.CellSpec(peephole="diagonal").peepholes
        3
        """
        return 0 if self.peephole is None else self.gates - 1

    @property
    def composes_cell(self) -> bool:
        """Whether the cell's own equations differ from the standard; dropout and zoneout are outside the cell.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.CellSpec(clip=1.0).composes_cell, nplstm.CellSpec(zoneout_h=0.1).composes_cell
        (True, False)
        """
        return bool(self.composing)

    @property
    def composing(self) -> list[str]:
        """Names of the options that make the cell's own equations differ from the standard ones.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.CellSpec(clip=1.0, peephole="full", zoneout_h=0.1).composing
        ['peephole', 'clip']
        """
        names = ("peephole", "coupled_input_forget", "activations", "clip", "cell_clip", "layer_norm")
        return [f.name for f in fields(self) if f.name in names and getattr(self, f.name) != f.default]

    @property
    def draws(self) -> dict[str, float]:
        """The options that draw masks in training, with their probabilities.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.CellSpec(zoneout_h=0.1, input_dropout=0.2).draws
        {'input_dropout': 0.2, 'zoneout_h': 0.1}
        """
        return {name: value for name in self._PROBABILITIES if (value := getattr(self, name)) > 0}

    def __repr__(self) -> str:
        shown: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name == "activations":
                value = tuple(a.name if a == Activation(a.name) else a for a in self.activations)
            shown.append(f"{field.name}={value!r}")
        return f"CellSpec({', '.join(shown)})"

    def to_dict(self) -> dict[str, Any]:
        """Return all options in types that JSON has; ``from_dict`` reads them back.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.CellSpec(clip=1.0).to_dict()["clip"]
        1.0
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Make a CellSpec from the result of ``to_dict``; options that are left out have their defaults.

        Raises
        ------
        ArgumentError
            If an option is unknown, or its value is invalid.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.CellSpec.from_dict({"clip": 1.0})
        CellSpec(clip=1.0)
        """
        if not isinstance(options, Mapping):
            raise ArgumentError(f"cell: expected a mapping of options, got {type(options).__qualname__}")
        unknown = [name for name in options if name not in {field.name for field in fields(cls)}]
        if unknown:
            raise ArgumentError(f"cell: CellSpec has no option {', '.join(map(repr, unknown))}")
        known = dict(options)
        if isinstance(known.get("activations"), list | tuple):
            activations = cast("list[Any]", known["activations"])
            known["activations"] = [_activation_of_dict(a) for a in activations]
        return cls(**known)


def _three_activations(value: Any) -> tuple[Activation, ...]:
    if not isinstance(value, tuple | list) or len(cast("list[Any]", value)) != 3:
        raise ArgumentError(
            f"activations: expected three, for the gates, the candidate and the cell's output, got {value!r}"
        )
    return tuple(as_activation(f"activations[{k}]", item) for k, item in enumerate(cast("list[Any]", value)))


def _activation_of_dict(value: Any) -> Any:
    """Make an Activation from its dict; return other values as they are, ``__post_init__`` checks them."""
    if not isinstance(value, dict):
        return value
    members = cast("dict[str, Any]", value)
    if "name" not in members or not members.keys() <= {"name", "alpha", "beta"}:
        raise ArgumentError(f"activations: expected entries with name, alpha and beta, got {members!r}")
    return Activation(**members)
