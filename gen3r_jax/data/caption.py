"""Puts captions into prepared scenes: ``gen3r caption ROOT --captions FILE.jsonl``.

Any model may have written them; a line of the file is ``{"scene": "re10k/<scene>", "captions": ["...", "..."]}``, or
``"caption": "..."`` for one. Stock openings ("The image shows a ...") stay: training rewrites them at random, as Gen3R
does.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3r_jax.data.captions import MAX_CHARACTERS, read_captions
from gen3r_jax.data.format import SceneFiles, find_scenes
from gen3r_jax.errors import UserError, add_most_bad, bad_share_status, main_guard
from gen3r_jax.storage.files import parse_json, read_lines, real_path, write_text


@dataclass(frozen=True)
class Merged:
    """Count what was done with a file of captions.

    summary: in a few lines of text. lines: how many there were. bad: how many were no captions, or of scenes whose
    captions lie outside of the root.
    """

    summary: str
    lines: int
    bad: int


def merge_captions(root: Path, file: Path, *, replace: bool = False) -> Merged:
    """Adds the captions of `file` to the scenes of `root`, each once, in the order of the file.

    Blank captions and those above 1000 characters, which training would take for empty, are left out.

    Args:
      replace: earlier captions of the scenes that `file` names are dropped.

    Returns:
      What was done; bad lines are left out. Raises UserError where nothing of `file` fits `root`.
    """
    scenes = _scenes(root)
    new: dict[str, list[str]] = {}
    unknown, bad, too_long, number = [], [], 0, 0
    for number, line in enumerate(read_lines(file), 1):
        try:
            scene_id, captions = _captions(parse_json(line, "it"))
            if scene_id not in scenes:
                unknown.append(scene_id)
                continue
            _require_inside(root, _captions_file(scenes[scene_id]))
        except UserError as error:
            bad.append(f"line {number}: {error}")
            continue
        texts = [" ".join(caption.split()) for caption in captions]
        too_long += sum(len(text) > MAX_CHARACTERS for text in texts)
        new.setdefault(scene_id, []).extend(text for text in texts if 0 < len(text) <= MAX_CHARACTERS)
    if not new:
        if bad:
            raise UserError(f"{file} has no captions for scenes of {root}: {bad[0]}")
        example = f"; {file} has {unknown[0]!r}, {root} has {next(iter(scenes))!r}" if unknown else ""
        raise UserError(f"{file} has no captions for scenes of {root}{example}")
    for scene_id, captions in new.items():
        place = _captions_file(scenes[scene_id])
        kept = [] if replace else read_captions(place)
        write_text(place, "".join(f"{caption}\n" for caption in dict.fromkeys(kept + captions)))
    without = [scene_id for scene_id, files in scenes.items() if not read_captions(_captions_file(files))]
    lines = [f"{root}: captions for {len(new)} of {len(scenes)} scenes"]
    if without:
        lines.append(f"  {len(without)} scenes have none and get an empty prompt (first: {without[0]})")
    if unknown:
        lines.append(f"  {len(unknown)} lines name scenes that are not there (first: {unknown[0]})")
    if too_long:
        lines.append(f"  {too_long} captions above {MAX_CHARACTERS} characters were left out")
    if bad:
        lines.append(f"  {len(bad)} lines were left out (first: {bad[0]})")
    return Merged("\n".join(lines), number, len(bad))


def _require_inside(root: Path, place: Path) -> None:
    """Raises UserError for what a list names outside of the root: captions are not written there."""
    if not Path(os.path.abspath(place)).is_relative_to(os.path.abspath(root)):
        raise UserError(f"its scene has its captions, {place}, outside of the root")


def _scenes(root: Path) -> dict[str, SceneFiles]:
    """All scenes of `root`, by set and name."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the --output of gen3r prepare")
    scenes = [scene for split in ("train", "test") for scene in find_scenes(root, split, cameras=False)]
    if not scenes:
        raise UserError(f"{root} holds no scenes; give the --output of gen3r prepare")
    return {"/".join(real_path(scene.images).parent.parts[-2:]): scene for scene in scenes}


def _captions_file(scene: SceneFiles) -> Path:
    return scene.captions or scene.images.parent / "captions.txt"


def _captions(entry: dict[str, Any]) -> tuple[str, list[str]]:
    captions = entry.get("captions", [entry["caption"]] if "caption" in entry else None)
    sound = isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)
    if not sound or "scene" not in entry:
        raise UserError('it is not {"scene": "set/scene", "captions": ["...", ...]}')
    return str(entry["scene"]), [" ".join(caption.split()) for caption in captions]  # a line each


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gen3r caption", description="Puts captions, made by any model, into the scenes of a prepared root."
    )
    parser.add_argument("root", type=Path, help="what `gen3r prepare` wrote to, or one set in it")
    parser.add_argument(
        "--captions",
        type=Path,
        required=True,
        metavar="FILE.jsonl",
        help='a line a scene: {"scene": "re10k/abc", "captions": ["...", "..."]}',
    )
    parser.add_argument("--replace", action="store_true", help="drop the earlier captions of these scenes")
    add_most_bad(parser, "lines")
    arguments = parser.parse_args()
    merged = merge_captions(arguments.root, arguments.captions, replace=arguments.replace)
    print(merged.summary)
    return bad_share_status(merged.bad, merged.lines, arguments.most_bad, "lines")


if __name__ == "__main__":
    main_guard(main)
