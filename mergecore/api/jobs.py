"""The work of a run: jobs, the tiles that they are cut into, and the executor that runs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from mergecore.api.files import ITEM_BYTES, TensorInfo
from mergecore.api.kernels import Kernels
from mergecore.api.methods import BLOCK, Context, DeltaMethod, Method, Tile, WeightMethod
from mergecore.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor of one input model, as stored in its files. For a stage, as it would be stored if it were written."""

    model: int
    """Position in `MergedModel.models`."""
    tensor: str
    info: TensorInfo
    scratch_bytes: int = 0
    """Bytes needed to compute a piece of the tensor if the model is a stage of the recipe. 0 if it is in a file."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous range of a tensor's elements, and the shape in which it is passed to `merge`."""

    start: int
    shape: tuple[int, ...]
    elements: int


@dataclass(frozen=True, slots=True)
class Job:
    """One output tensor, with its inputs and method.

    Attributes:
        name: name of the output tensor.
        info: dtype and shape of the output tensor.
        inputs: the input tensors. If the method treats the base model separately, it comes first.
        method: the method with the parameters for this tensor. None copies the inputs, which must be equal.
        has_base: True if `inputs[0]` is a base that a `DeltaMethod` does not treat as a model.
        seed: the recipe's seed, for methods that draw random numbers.
    """

    name: str
    info: TensorInfo
    inputs: tuple[Input, ...]
    method: Method | None
    has_base: bool = False
    seed: int = 0

    @property
    def compute_dtype(self) -> str:
        """Dtype of the arithmetic: F64 if the output or any input is F64, otherwise F32."""
        if self.info.dtype == "F64":
            return "F64"
        return "F64" if any(item.info.dtype == "F64" for item in self.inputs) else "F32"

    @property
    def measures(self) -> bool:
        """Whether the method needs a pass over the whole tensor first."""
        return self.method is not None and type(self.method).measure is not Method.measure

    @property
    def is_whole(self) -> bool:
        """Whether the method needs the tensor in one piece."""
        tile = self.method.tile if self.method is not None else Tile.ELEMENTS
        return tile is Tile.TENSOR or (tile is Tile.ROWS and len(self.info.shape) < 2)

    def pieces(self, elements: int, first: int = 0, last: int | None = None) -> list[Piece]:
        """Cut the tensor into pieces of about `elements` elements, as far as the method allows.

        Return only the pieces that cover elements `first` to `last` (default: the end). An empty tensor has no pieces.
        """
        total, shape = self.info.elements, self.info.shape
        if total == 0:
            return []
        if self.is_whole:
            return [Piece(0, shape, total)]
        unit = self._unit
        step = max(1, elements // unit) * unit
        end = total if last is None else min(total, -(-last // unit) * unit)
        starts = ((start, min(step, end - start)) for start in range(first // unit * unit, end, step))
        if self._in_rows:
            return [Piece(start, (count // unit, *shape[1:]), count) for start, count in starts]
        return [Piece(start, (count,), count) for start, count in starts]

    @property
    def _in_rows(self) -> bool:
        return self.method is not None and self.method.tile is Tile.ROWS

    @property
    def _unit(self) -> int:
        """Number of elements that pieces are multiples of."""
        return self.info.elements // self.info.shape[0] if self._in_rows else BLOCK

    def memory(self, elements: int) -> int:
        """Bytes needed to merge a piece of `elements`: stored, computing, and scratch bytes together."""
        largest = self.info.elements
        if largest and not self.is_whole:
            largest = min(largest, max(1, elements // self._unit) * self._unit)
        return largest * (self.stored_item_bytes + self.computing_item_bytes) + self.scratch_bytes

    @property
    def stored_item_bytes(self) -> int:
        """Bytes per element of the inputs and the output in their stored dtypes."""
        return sum(ITEM_BYTES[item.info.dtype] for item in self.inputs) + ITEM_BYTES[self.info.dtype]

    @property
    def computing_item_bytes(self) -> int:
        """Bytes per element of the arithmetic: floats and differences of the inputs, the result, and one spare."""
        return ITEM_BYTES[self.compute_dtype] * (2 * len(self.inputs) + 2)

    @property
    def scratch_bytes(self) -> int:
        """Bytes that stages need to compute the inputs."""
        return sum(item.scratch_bytes for item in self.inputs)

    def merge(self, tensors: Sequence[Tensor], ctx: Context) -> Tensor:
        """Merge the tiles of the inputs, which must all have the dtype `compute_dtype`, one shape, and one device."""
        return self.apply(tensors[0] if self.has_base else None, self.prepare(tensors, ctx), ctx)

    def prepare(self, tensors: Sequence[Tensor], ctx: Context) -> Sequence[Tensor]:
        """First half of `merge`: let the method prepare the tiles of the inputs."""
        assert self.method is not None
        return self.method.prepare(self.models(tensors), ctx)

    def apply(self, base: Tensor | None, prepared: Sequence[Tensor], ctx: Context) -> Tensor:
        """Second half of `merge`: merge the prepared tiles, and add the base tile if `has_base`."""
        assert isinstance(self.method, (WeightMethod, DeltaMethod))
        merged, shape = self.method.merge(prepared, ctx), prepared[0].shape
        if merged.shape != shape:
            raise RunError(
                f"{self.name}: {type(self.method).__name__}.merge returned shape {tuple(merged.shape)} for inputs of"
                f" shape {tuple(shape)}; it must keep the shape"
            )
        return merged if base is None else base + merged

    def models(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the tensors to pass to the method: the weights, or their differences from the base."""
        if isinstance(self.method, DeltaMethod) and self.has_base:
            return [tensor - tensors[0] for tensor in tensors[1:]]
        return tensors

    def context(self, tiles: Sequence[Sequence[Tensor]], kind: Callable[..., Context] = Context) -> Context:
        """Return the context for the tiles of this job, with measurements if the method uses them.

        `kind` is a subclass of `Context`, or makes one.
        """
        ctx = kind(name=self.name, shape=self.info.shape, seed=self.seed)
        if not self.measures or self.method is None:
            return ctx
        return replace(ctx, measured=self.method.measure(tiles, ctx))


class Tiles(Sequence["Sequence[Tensor]"]):
    """The tiles of a job as passed to `measure`. Each tile is read on access."""

    def __init__(self, job: Job, pieces: Sequence[Piece], read: Callable[[Job, Piece], Sequence[Tensor]]) -> None:
        self._job, self._pieces, self._read = job, pieces, read

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: Any) -> Any:
        return self._job.models(self._read(self._job, self._pieces[index]))

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        return (self[index] for index in range(len(self)))


class TensorIO(Protocol):
    """The inputs and outputs of a run, opened in a process other than the main one.

    They stay open until that process ends. All methods can be called from several threads at once.
    """

    nonfinite: set[str]
    """Names of tensors that contain NaN or infinity and were written because the user allowed it."""

    def read(self, item: Input, start: int, out: Tensor | memoryview) -> None:
        """Same as `Work.read`."""

    def write(self, name: str, start: int, data: Tensor | memoryview) -> None:
        """Same as `Work.write`."""

    def sync(self) -> None:
        """Return once all data written before the call is safe from a power loss. Only then is a job done."""


@dataclass(frozen=True)
class Work:
    """The work for an executor.

    Attributes:
        jobs: the tensors to compute, in the order of the plan. The order does not affect the output bytes.
        read: fills a flat CPU tensor in the stored dtype, or its memory, with an input's elements, starting at a given
            index.
        write: writes a flat CPU tensor in the output dtype, or its memory, to a named output tensor, starting at a
            given index. Only tensors are checked for NaN and infinity, so write memory only if its numbers are finite.
        advance: call this with the number of output bytes after every write.
        done: call this with every finished job.
        memory: memory budget in bytes.
        workers: number of threads or other workers to use.
        elsewhere: for executors that use other processes. It is picklable and opens the same files there, on shared
            storage. The run learns about their writes only through `done`. None if only this process can do the work.
        nonfinite: before it calls `done`, an executor adds the names in `TensorIO.nonfinite` here.
        warn: shows a warning to the user.
        kernels: native code for methods that can be recorded, if it is installed.

    All functions except `elsewhere` can be called from several threads at once.
    """

    jobs: Sequence[Job]
    read: Callable[[Input, int, Tensor | memoryview], None]
    write: Callable[[str, int, Tensor | memoryview], None]
    advance: Callable[[int], None]
    done: Callable[[Job], None]
    memory: int
    workers: int
    elsewhere: Callable[[], TensorIO] | None = None
    nonfinite: set[str] = field(default_factory=set)
    warn: Callable[[str], None] = warnings.warn
    kernels: Kernels | None = None


class Executor(Protocol):
    """Runs the jobs of a plan. The constructor takes no arguments."""

    def run(self, work: Work) -> None:
        """Compute every tensor in `work.jobs`. Stop at the first error and raise it."""
