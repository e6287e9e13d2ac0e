"""What holds for every call of the embedding engine, however it ends: it is watched, and what was paid for is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from lava_mistral.billing.listeners import tell_effort
from lava_mistral.billing.usage import Listener
from lava_mistral.embedding.jobs import Collection, Flow
from lava_mistral.embedding.progress import OnProgress, Watch
from lava_mistral.embedding.results import PartialEmbedding
from lava_mistral.embedding.workers import TaskLanes, ThreadLanes


@contextmanager
def conducted(
    call: Collection | Flow,
    lanes: ThreadLanes | TaskLanes,
    listeners: Sequence[Listener],
    show: bool,
    tell: OnProgress | None,
) -> Iterator[Watch]:
    """A block around one call; whatever exception leaves it has `partial`, to go on from.

    Args:
        call: the call.
        lanes: where its batches are done; ended before the block is left.
        listeners: told of its retries and saved duplicates.
        show: draw a progress bar.
        tell: told how far it has come.
    """
    try:
        with Watch(call, show, tell) as watch:
            yield watch
    except GeneratorExit:
        # A stream was left: it can be asked itself.
        raise
    except BaseException as error:
        partial = what_is_there(call, lanes)
        if partial is not None:
            with suppress(AttributeError):
                error.partial = partial  # type: ignore[attr-defined]
        raise
    finally:
        tell_effort(listeners, call.effort())


def what_is_there(call: Collection | Flow, lanes: ThreadLanes | TaskLanes) -> PartialEmbedding | None:
    """What a call has got, the reports that nobody has taken yet included."""
    for report in lanes.finished():
        if call.take(report):
            lanes.finish()
    return call.partial()


def take_all(call: Collection | Flow, lanes: TaskLanes, watch: Watch) -> bool:
    """Take what is done; whether the call has failed by it, and only waits for the requests in flight."""
    failed = False
    for report in lanes.finished():
        if call.take(report):
            failed = True
            lanes.finish()
        watch.update()
    return failed
