"""The ways in which files come into the project: each reads a file that was valid before it was changed.

What a door reads after a change is compared with what the file says now, read by other means (``truth``), or with what
it said before, where what the project wrote tells damage (``sealed``).
"""

from tests.faults.doors.cameras import CAMERAS
from tests.faults.doors.data import DATA
from tests.faults.doors.door import Door, require_one_line
from tests.faults.doors.pictures import PICTURES
from tests.faults.doors.texts import TEXTS
from tests.faults.doors.weights import WEIGHTS

__all__ = ["CAMERAS", "DATA", "DOORS", "PICTURES", "SEALED", "TEXTS", "WEIGHTS", "Door", "require_one_line"]

DOORS: dict[str, Door] = CAMERAS | TEXTS | WEIGHTS | PICTURES | DATA
SEALED = ("weights folder", "params.safetensors", "checkpoint of a training", "shards", "latents")
"""What the project writes: no flipped bit of it may pass."""
