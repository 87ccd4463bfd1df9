"""What the processes of a server are told when they start."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from gen3r_jax.errors import UserError
from gen3r_jax.options import Count, Positive, check_fields, read_options

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and how often.

    Attributes:
      upload_bytes: of one request, files and fields together.
      files: of one request.
      pixels: of one picture, and of one frame of a video.
      clip_pixels: of all frames of a scene together; by default those of the clips of the released weights.
      steps: of the solver.
      upload_seconds: that a request may take to arrive.
      decode_seconds: that its files may take to be decoded.
      decode_bytes: of memory that decoding may take.
      queued: jobs that wait.
      burst: requests that make something, from one address at once.
      a_minute: how many more each minute.
      streams: of events at the same time.
    """

    upload_bytes: Count = 256 << 20
    files: Count = 64
    pixels: Count = 64_000_000
    clip_pixels: Count = 49 * 560 * 560
    steps: Count = 200
    upload_seconds: Positive = 600.0
    decode_seconds: Positive = 60.0
    decode_bytes: Count = 8 << 30
    queued: Count = 100
    burst: Count = 60
    a_minute: Count = 120
    streams: Count = 100


@dataclass(frozen=True)
class Keep:
    """How much a store keeps; None: there is no bound. Of more, the oldest scenes are removed."""

    scenes: int | None = None
    days: float | None = None
    bytes: int | None = None

    @classmethod
    def parse(cls, texts: list[str]) -> "Keep":
        """Reads bounds such as ``100``, ``30d`` and ``20GB``. Raises UserError for others."""
        found: dict[str, Any] = {}
        for text in texts:
            match = re.fullmatch(r"(\d+(?:\.\d+)?)(d|MB|GB|TB|)", text)
            if not match or float(match[1]) <= 0 or (not match[2] and "." in match[1]):
                raise UserError(f"--keep {text!r} is no bound; give a number of scenes (100), of days (30d) or 20GB")
            number, unit = float(match[1]), match[2]
            if unit in ("MB", "GB", "TB"):
                found["bytes"] = int(number * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit])
            else:
                found |= {"days": number} if unit else {"scenes": int(number)}
        return cls(**found)


@dataclass(frozen=True)
class ServeOptions:
    """All that a server is told.

    Attributes:
      weights: as ``gen3r generate`` takes them, and `dtype`, `memory_mode`, `compile_cache` too.
      store: folder of the queue, the uploads and the scenes.
      host, port: where the server listens.
      token: what a client must know; "" asks for none, which only a server on the loopback address may do.
      names: hosts by whose names the server may be called, beside those of its own address.
      maker: ``module:function`` that gives a worker its :class:`gen3r_jax.serve.worker.Make`.
    """

    weights: str
    store: str
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    names: tuple[str, ...] = ()
    dtype: str | None = None
    memory_mode: str = "resident"
    compile_cache: str | None = None
    maker: str = "gen3r_jax.serve.making:start"
    keep: Keep = field(default_factory=Keep)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.token and self.host not in LOOPBACK:
            raise UserError(f"--host {self.host} lets other machines in; give --token_file FILE, or GEN3R_TOKEN")
        if self.token and len(self.token) < 16:
            raise UserError(
                "the token has to be at least 16 characters; this makes one: "
                "python -c 'import secrets; print(secrets.token_urlsafe())'"
            )

    def document(self) -> dict[str, Any]:
        """As JSON can hold it; :func:`options_of` reads it."""
        return dataclasses.asdict(self)


def options_of(document: dict[str, Any]) -> ServeOptions:
    """The options of a document."""
    return read_options(ServeOptions, document, "options")
