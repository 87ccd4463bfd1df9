"""Caption files and the cleaning that Gen3R applies to a caption before training on it."""

import re
from pathlib import Path
from typing import Protocol

from gen3r_jax.storage.files import read_lines

MAX_CHARACTERS = 1000

_PLURAL = ("show", "portray", "depict", "showcase", "present", "capture", "feature", "display", "comprise", "include")
_SINGULAR = tuple(f"{verb}s" for verb in _PLURAL)
_SCENES = (
    "scene",
    "scene in the images",
    "scene captured in the images",
    "scene depicted in the images",
    "main visual content of the scene",
)


def _opening(subjects: tuple[str, ...], verbs: tuple[str, ...]) -> re.Pattern[str]:
    # The article goes with the phrase; the word after it is only looked at.
    return re.compile(rf"^The (?:{'|'.join(subjects)}) (?:{'|'.join(verbs)}) an?(?=\s+(\w))")


_OPENINGS = (
    _opening(("image",), _SINGULAR),
    _opening(("images",), _PLURAL),
    _opening(_SCENES, ("is", "is of", *_SINGULAR)),
)


class RandomSource(Protocol):
    """``random.Random``, the ``random`` module, or a numpy ``Generator``."""

    def random(self) -> float: ...


def clean_caption(caption: str, rng: RandomSource) -> str:
    """Rewrites the stock openings of machine-made captions: "The image shows a cat" -> "A cat" or "It is a cat".

    Captions above 1000 characters become empty; one in five is kept as it is. An opening is replaced by the bare
    article three times in four. Draws ``rng.random()`` once, and once more when an opening is found, in the order of
    the official code, so that the same stream of numbers gives the same captions.
    """
    if len(caption) > MAX_CHARACTERS:
        return ""
    if rng.random() < 0.2:
        return caption
    caption = caption.strip()
    for opening in _OPENINGS:
        if match := opening.match(caption):
            article = "an" if match.group(1).lower() in "aeiou" else "a"
            phrase = article.capitalize() if rng.random() < 0.75 else f"It is {article}"
            return phrase + caption[match.end() :]
    return caption


def read_captions(path: Path) -> list[str]:
    """The lines of a caption file that are not empty, one caption each; none where there is no such file.

    Raises UserError where the file is not UTF-8.
    """
    return read_lines(path) if path.is_file() else []
