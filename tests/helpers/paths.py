"""Where the tests find what stands with the project."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RECORDED = REPOSITORY / "tests" / "recorded"
NANO = REPOSITORY / "pretrained" / "nano"
