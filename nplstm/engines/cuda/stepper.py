"""Streams on a CUDA device: a step of all layers is one replay of a CUDA graph."""

from collections.abc import Callable
from functools import partial

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.layer_weights import LayerWeights
from nplstm.engines.base import Stepper
from nplstm.engines.cuda.addresses import DeviceWeights, address, cuda_of
from nplstm.engines.cuda.arguments import STREAM_STEP, made
from nplstm.engines.cuda.directions import kept_type
from nplstm.engines.cuda.source import stream
from nplstm.errors import BackendError

__all__ = ["CudaStepper"]

_CELLS, _SEQUENCES = 4, 4
"""Cells and sequences of a block, as in ``kernels/stream.cu``."""


class CudaStepper(Stepper):
    """See ``Stepper``. h has two arrays that alternate, so there are two graphs."""

    def __init__(self, weights: list[LayerWeights], batch: int) -> None:
        weight = weights[0].params.weight_ih
        xp, dtype = namespace(weight), weight.dtype
        widths = [layer.widths[1] for layer in weights]
        self._weights, self._turn = weights, 0
        self._h = [[xp.zeros((batch, H), dtype=dtype) for H in widths] for _ in range(2)]
        self._c = [xp.zeros((batch, H), dtype=kept_type(dtype)) for H in widths]
        super().__init__(
            xp.zeros((batch, weight.shape[1]), dtype=dtype), xp.zeros((batch, widths[-1]), dtype=dtype)
        )
        self._cuda = cuda_of(weight)
        self._device = self._cuda.device().number
        launches = [self._launches(turn) for turn in range(2)]  # made before: a capture may not allocate
        self._graphs = [self._cuda.capture(partial(_run, some)) for some in launches]

    def _launches(self, turn: int) -> list[Callable[[], None]]:
        """Return the launches, one for each layer, from h in one array to h in the other."""
        kernel = stream(self._cuda, self.x.dtype)
        below, last = self.x, len(self._weights) - 1
        launches: list[Callable[[], None]] = []
        for layer, of_layer in enumerate(self._weights):
            after, weights = self._h[1 - turn][layer], DeviceWeights.of(of_layer)
            arrays = {
                "weight_ih": weights.ih,
                "weight_hh": weights.hh,
                "bias_ih": weights.bias_ih,
                "bias_hh": weights.bias_hh,
                "x": below,
                "h": self._h[turn][layer],
                "h_next": after,
                "c": self._c[layer],
                "y": self.y if layer == last else None,
            }
            addresses = {name: address(array) for name, array in arrays.items()}
            (B, I), H = below.shape, after.shape[1]
            grid = (-(-B // _SEQUENCES), -(-H // _CELLS))
            arguments = made(STREAM_STEP, B=B, I=I, H=H, **addresses)
            launches.append(partial(kernel.launch, grid, 32 * _CELLS, arguments))
            below = after
        return launches

    def step(self) -> None:
        """Replay the graph, which belongs to one device."""
        current, _ = self._cuda.stream()
        if current != self._device:
            raise BackendError(f"the stream is on device {self._device}, and the current device is {current}")
        self._graphs[self._turn]()
        self._turn = 1 - self._turn

    @property
    def h(self) -> list[Array]:
        """By layer, (B, H)."""
        return self._h[self._turn]

    @property
    def c(self) -> list[Array]:
        """By layer, (B, H), in the type in which c is kept."""
        return self._c


def _run(launches: list[Callable[[], None]]) -> None:
    for launch in launches:
        launch()
