"""Reference engine, named ``plain``: the time loop. It supports everything; the others are tested against it."""

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.masks import inference_masks
from nplstm.core.packed import PackedSteps
from nplstm.core.step import State, Step, StepInputs
from nplstm.core.time_loop import SequenceGradients, SequenceTape, sequence_backward, sequence_forward
from nplstm.engines.base import Engine, LayerCall, Request, Stepper, state_of

__all__ = ["ReferenceEngine"]


class ReferenceEngine(Engine):
    """One direction after the other, one step after the other."""

    name = "plain"

    def supports_backend(self, backend: str) -> bool:
        """Support all."""
        return True

    def unsupported_reason(self, request: Request) -> str:
        """Support everything."""
        return ""

    def forward(self, layer: LayerCall, steps: PackedSteps, *, record: bool) -> list[SequenceTape | None]:
        """Run one direction after the other."""
        return [
            sequence_forward(
                layer.x[d],
                Step(layer.weights[d], layer.inputs[d]),
                steps,
                initial=state_of(layer.initial, d),
                final=state_of(layer.final, d),
                out=out,
                reverse=layer.reverse[d],
                record=record,
            )
            for d, out in enumerate(layer.out)
        ]

    def backward(
        self, grad_out: list[Array] | None, grad: State, tape: list[SequenceTape]
    ) -> list[SequenceGradients]:
        """Run the backward pass of one direction after the other."""
        return [
            sequence_backward(None if grad_out is None else grad_out[d], state_of(grad, d), sequence)
            for d, sequence in enumerate(tape)
        ]

    def stepper(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> Stepper:
        """Return a stepper that runs the step of the time loop, layer by layer."""
        return _ReferenceStepper(weights, batch, residual)


class _ReferenceStepper(Stepper):
    def __init__(self, weights: list[LayerWeights], batch: int, residual: frozenset[int]) -> None:
        weight = weights[0].params.weight_ih
        xp, dtype = namespace(weight), weight.dtype
        self._steps = [Step(layer, StepInputs(inference_masks(layer.spec))) for layer in weights]
        self._residual, self._rows = residual, slice(0, batch)
        widths = [layer.widths for layer in weights]
        self._states = [
            State(xp.zeros((batch, P), dtype=dtype), xp.zeros((batch, H), dtype=dtype)) for P, H in widths
        ]
        I = weight.shape[1]
        super().__init__(xp.zeros((batch, I), dtype=dtype), xp.zeros((batch, widths[-1][0]), dtype=dtype))

    def step(self) -> None:
        values = self.x
        for layer, step in enumerate(self._steps):
            a, _ = step.from_input(values)
            self._states[layer], _ = step.forward(a, self._states[layer], self._rows, 0, None)
            h = self._states[layer].h
            values = h + values if layer in self._residual else h
        self.y[...] = values

    @property
    def h(self) -> list[Array]:
        return [state.h for state in self._states]

    @property
    def c(self) -> list[Array]:
        return [state.c for state in self._states]
