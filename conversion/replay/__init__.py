"""Which kinds of recorded files there are, and how each is computed again."""

from conversion.recording import Recording, Replay
from conversion.replay import adapter, autoencoders, data, dit, encoders, geometry, pipeline, schedulers, vggt

REPLAYS: dict[str, Replay] = {
    **vggt.REPLAYS,
    **autoencoders.REPLAYS,
    **geometry.REPLAYS,
    **data.REPLAYS,
    **adapter.REPLAYS,
    **dit.REPLAYS,
    **encoders.REPLAYS,
    **schedulers.REPLAYS,
    **pipeline.REPLAYS,
}


def kind_of(recording: Recording) -> str | None:
    """The kind of a recording, None if unknown: its metadata say it, or its file name, or the tensors it holds.

    Of several kinds that a name begins with, or failing that contains, the longest counts.
    """
    if recording.metadata.get("kind") in REPLAYS:
        return recording.metadata["kind"]
    stem = recording.path.stem
    for fits in (stem.startswith, stem.__contains__):
        if kinds := [kind for kind in REPLAYS if fits(kind)]:
            return max(kinds, key=len)
    return next((kind for kind, replay in REPLAYS.items() if replay.recognises(recording.names)), None)
