"""Check where prepared scenes go: never where something of the user's stands, never out of their folder."""

from collections.abc import Iterable
from pathlib import Path

from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import inside, read_json, real_path

FILES = ("transforms.json", "captions.txt", "scene.json")
FOLDERS = ("images", "depth")
"""Names in the folder of a prepared scene; the names of what lies in the folders begin with ``frame_``."""


def scene_place(folder: Path, scene: str) -> Path:
    """The folder of a scene, which lies in `folder`, not deeper. Raises UserError for names of other places."""
    place = inside(folder, scene)
    if place.parent != folder or scene.startswith("."):
        raise UserError(f"the name {scene[:80]!r} is none for a scene's folder: it has a slash or begins with a dot")
    return place


def require_own(place: Path) -> None:
    """Raises UserError unless all that stands at `place`, if anything, was written as a scene by an earlier run."""
    if not place.exists() and not place.is_symlink():
        return
    try:
        ours = not place.is_symlink() and {"dataset", "source_id"} <= read_json(place / "scene.json", nan=True).keys()
    except UserError:
        ours = False
    if not ours:
        raise UserError("something that gen3r prepare did not write stands where its scene goes; move it away")
    others = [path for path in place.iterdir() if path.name not in (*FILES, *FOLDERS)]
    others += [path for name in FOLDERS for path in place.glob(f"{name}/*") if not path.match("frame_*")]
    if others:
        raise UserError(f"{others[0].name}, which gen3r prepare did not write, lies in its older scene; move it away")


def require_apart(folder: Path, sources: Iterable[Path]) -> None:
    """Raises UserError where what is written to `folder` would lie in what is read, or the other way round, also
    through links."""
    written = real_path(folder)
    for path in sources:
        source = real_path(path)
        if written == source or written in source.parents or source in written.parents:
            raise UserError(f"{path} and {folder}, where scenes are written to, overlap; give another --output")
