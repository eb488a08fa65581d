"""The work of a run: jobs, the tiles they are cut into, and the executor that does them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mergecore.api.evaluation import Evaluation
from mergecore.api.files import ITEM_BYTES, TensorInfo
from mergecore.api.methods import BLOCK, Context, DeltaMethod, Method, Tile, WeightMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Input:
    """One tensor of one input model, as it lies in that model's files or would if a stage were written."""

    model: int
    """Position in `MergedModel.models`."""
    tensor: str
    info: TensorInfo
    making: int = 0
    """Bytes in flight while a piece of it is made, where the model is a stage of the recipe; 0: it is stored."""


@dataclass(frozen=True)
class Piece:
    """A run of a tensor's elements, and the shape that `merge` sees it in."""

    start: int
    shape: tuple[int, ...]
    elements: int


@dataclass(frozen=True)
class Job:
    """One output tensor: what it is made of and how.

    Attributes:
        name: output name.
        info: output dtype and shape.
        inputs: where it comes from; a base that the method treats apart comes first.
        method: the method with this tensor's parameters; None: a copy of the inputs, which must agree.
        has_base: whether `inputs[0]` is a base that a `DeltaMethod` does not see as a model.
        seed: of the recipe, for methods that draw random numbers.
    """

    name: str
    info: TensorInfo
    inputs: tuple[Input, ...]
    method: Method | None
    has_base: bool = False
    seed: int = 0

    @cached_property
    def compute_dtype(self) -> str:
        """Dtype of the arithmetic: F64 when an input or the output is, else F32."""
        return "F64" if any(info.dtype == "F64" for info in (self.info, *(i.info for i in self.inputs))) else "F32"

    @property
    def measures(self) -> bool:
        """Whether the method wants to see the whole tensor first."""
        return self.method is not None and type(self.method).measure is not Method.measure

    @property
    def is_whole(self) -> bool:
        """Whether the method wants the tensor in one piece."""
        tile = self.method.tile if self.method is not None else Tile.ELEMENTS
        return tile is Tile.TENSOR or (tile is Tile.ROWS and len(self.info.shape) < 2)

    def pieces(self, elements: int, first: int = 0, last: int | None = None) -> list[Piece]:
        """Cut the tensor into pieces of about `elements` elements, as the method allows; none for an empty tensor.

        Of those that cover the elements from `first` up to `last`, the end by default, all others are left out.
        """
        total, shape = self.info.elements, self.info.shape
        if total == 0:
            return []
        if self.is_whole:
            return [Piece(0, shape, total)]
        in_rows = self.method is not None and self.method.tile is Tile.ROWS
        unit = total // shape[0] if in_rows else BLOCK
        step = max(1, elements // unit) * unit
        end = total if last is None else min(total, -(-last // unit) * unit)
        starts = ((start, min(step, end - start)) for start in range(first // unit * unit, end, step))
        if in_rows:
            return [Piece(start, (count // unit, *shape[1:]), count) for start, count in starts]
        return [Piece(start, (count,), count) for start, count in starts]

    def memory(self, elements: int) -> int:
        """Bytes in flight while a piece of `elements` is merged: stored, float, differences, result and one more.

        What a stage takes to make the inputs comes on top.
        """
        size = ITEM_BYTES[self.compute_dtype]
        largest = max((piece.elements for piece in self.pieces(elements)), default=0)
        stored = sum(ITEM_BYTES[item.info.dtype] for item in self.inputs) + ITEM_BYTES[self.info.dtype]
        making = sum(item.making for item in self.inputs)
        return largest * (stored + size * (2 * len(self.inputs) + 2)) + making

    def merge(self, tensors: Sequence[Tensor], ctx: Context) -> Tensor:
        """The merged tile from the inputs' tiles, all of `compute_dtype` and one shape, on any device."""
        return self.apply(tensors[0] if self.has_base else None, self.prepare(tensors, ctx), ctx)

    def prepare(self, tensors: Sequence[Tensor], ctx: Context) -> Sequence[Tensor]:
        """The first half of `merge`: what the method prepares of the inputs' tiles."""
        assert self.method is not None
        return self.method.prepare(self.models(tensors), ctx)

    def apply(self, base: Tensor | None, prepared: Sequence[Tensor], ctx: Context) -> Tensor:
        """The second half of `merge`: the merged tile from what was prepared, and the base's tile if `has_base`."""
        assert isinstance(self.method, (WeightMethod, DeltaMethod))
        merged = self.method.merge(prepared, ctx)
        return merged if base is None else base + merged

    def models(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the method sees of the inputs' tiles: the weights, or their differences from the base."""
        if isinstance(self.method, DeltaMethod) and self.has_base:
            return [tensor - tensors[0] for tensor in tensors[1:]]
        return tensors

    def context(self, tiles: Sequence[Sequence[Tensor]]) -> Context:
        """The context of this job's tiles, measured where the method asks for it."""
        ctx = Context(name=self.name, shape=self.info.shape, seed=self.seed)
        if not self.measures or self.method is None:
            return ctx
        return replace(ctx, measured=self.method.measure(tiles, ctx))


class Tiles(Sequence["Sequence[Tensor]"]):
    """A job's tiles as `measure` sees them: each is read when it is asked for."""

    def __init__(self, job: Job, pieces: Sequence[Piece], read: Callable[[Job, Piece], Sequence[Tensor]]) -> None:
        self._job, self._pieces, self._read = job, pieces, read

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: Any) -> Any:
        return self._job.models(self._read(self._job, self._pieces[index]))

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        return (self[index] for index in range(len(self)))


class Ends(Protocol):
    """Where a run's tensors come from and go to, opened in another process than the run's own.

    They stay open until that process ends. All may be called from several threads at once.
    """

    nonfinite: set[str]
    """Names of tensors that were written with NaN or infinity in them, which the user has allowed."""

    def read(self, item: Input, start: int, out: Tensor) -> None:
        """As `Work.read`."""

    def write(self, name: str, start: int, data: Tensor) -> None:
        """As `Work.write`."""

    def sync(self) -> None:
        """Return when all that was written before the call would outlive a power cut; only then a job is done."""


@dataclass(frozen=True)
class Work:
    """What an executor is given.

    Attributes:
        jobs: the tensors to make, in the plan's order; any other order gives the same bytes.
        read: fills a flat CPU tensor of the stored dtype with an input's elements from a start on.
        write: puts a flat CPU tensor of the output dtype at an element of a named output tensor.
        advance: to be told of every number of output bytes written.
        done: to be told of every finished job.
        memory: bytes that may be in flight.
        workers: threads (or the like) to use.
        elsewhere: for executors that work in other processes: pickled, it opens the same files there, on storage that
            both see; what such a process writes is known to the run by `done` alone. None: only this process can.
        nonfinite: where an executor puts what is in `Ends.nonfinite` of a job, before it calls `done`.
        warn: tells the user of something not as expected, as a sentence.

    All functions but `elsewhere` may be called from several threads at once.
    """

    jobs: Sequence[Job]
    read: Callable[[Input, int, Tensor], None]
    write: Callable[[str, int, Tensor], None]
    advance: Callable[[int], None]
    done: Callable[[Job], None]
    memory: int
    workers: int
    elsewhere: Callable[[], Ends] | None = None
    nonfinite: set[str] = field(default_factory=set)
    warn: Callable[[str], None] = warnings.warn


class Executor(Protocol):
    """Runs the jobs of a plan; made without arguments."""

    def run(self, work: Work) -> None:
        """Make every tensor of `work.jobs`; the first error ends the run and is raised."""


@dataclass(frozen=True)
class ModelInfo:
    """An input model.

    Attributes:
        reference: as the recipe writes it.
        folder: where its files are; of a stage, all but the weights.
        config: its config.json.
        card: what its README.md says of licence and language, see `mergecore.api.read_card`; for `licence_kind`.
        revision: the commit that a model from the Hub is of.
        stage: what makes it, where it is a stage of the recipe and written nowhere; None: a model in files.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    card: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    stage: MergedModel | None = None


@dataclass(frozen=True)
class MergedModel:
    """What a post-processor is given once the weights are written.

    Attributes:
        name: name of the output folder that people will see.
        folder: where to write; it becomes the output folder when all post-processors are through.
        recipe: the recipe's YAML text.
        method: entry-point name of the merge method.
        method_doc: the method's docstring.
        models: the input models, in the recipe's order.
        donor: position in `models` of the one whose config and other files the output takes over.
        architecture: class name, as in config.json.
        config: config.json of the output.
        tensors: the output's tensors.
        base: position in `models` of the recipe's base model, if it names one.
        tokenizer_files: every tokenizer file of the output, by name; None: the donor's, as they are.
        evaluations: what the recipe wants measured of the result.
        command: what of ``mergecore`` made it from the recipe; several words: the whole line, which takes none.
        warn: tells the user of something left out, as a sentence.
        tell: gives the user a line of news, unless only warnings are wanted.
        memory: bytes that a post-processor may take, the run's budget.
    """

    name: str
    folder: Path
    recipe: str
    method: str
    method_doc: str
    models: tuple[ModelInfo, ...]
    donor: int
    architecture: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    base: int | None = None
    tokenizer_files: Mapping[str, bytes] | None = None
    evaluations: Sequence[Evaluation] = ()
    command: str = "run"
    warn: Callable[[str], None] = warnings.warn
    tell: Callable[[str], None] = lambda text: None
    memory: int = 0


class PostProcessor:
    """A step after the weights are written: config, tokenizer, model card, check, upload."""

    after: ClassVar[tuple[str, ...]] = ()
    """Names of post-processors that must have run before this one."""
    of_stages: ClassVar[bool] = False
    """Whether it also runs, while planning and without weights, for a stage that is merged into the result: so do those
    whose files a merge takes from its models, such as the tokenizer."""

    def run(self, model: MergedModel) -> None:
        """Add to `model.folder`."""
        raise NotImplementedError
