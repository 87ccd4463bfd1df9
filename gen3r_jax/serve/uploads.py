"""What is sent: read within bounds, kept under names of ours, and checked before it is accepted."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gen3r_jax.serve.fields import FILES, LONGEST_FIELD, safe_names
from gen3r_jax.serve.options import Limits


@dataclass
class Upload:
    """A request that has arrived.

    Attributes:
      folder: where its files lie.
      fields: by the names of flags.
      files, names: by the names of fields: those of the files in the folder, and those that they were sent under.
      digest: of everything that it asks for.
    """

    folder: Path
    fields: dict[str, str]
    files: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    digest: str = ""


async def receive(request: Request, kind: str, folder: Path, limits: Limits) -> Upload:
    """Reads a form into a new folder. Raises HTTPException: 408, 413, 415 and 422."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, "send a form as multipart/form-data")
    if _number(request.headers.get("content-length")) > limits.upload_bytes:
        raise _too_large(limits)
    parser = MultiPartParser(
        request.headers,
        _bounded(request.stream(), limits),
        max_files=limits.files,
        max_fields=limits.files,
        max_part_size=4 * LONGEST_FIELD,
    )
    try:
        async with asyncio.timeout(limits.upload_seconds):
            form = await parser.parse()
    except TimeoutError:
        raise HTTPException(408, f"the request takes longer than {limits.upload_seconds:.0f} s to arrive") from None
    except MultiPartException as error:
        raise HTTPException(422, f"the form cannot be read: {error.message}") from None
    except (KeyError, ValueError, AssertionError) as error:  # of headers that are none
        raise HTTPException(422, f"the form cannot be read: {type(error).__name__}") from None
    try:
        return await run_in_threadpool(_keep, form, kind, folder)
    finally:
        await form.close()


async def _bounded(stream: AsyncGenerator[bytes, None], limits: Limits) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in stream:
        total += len(chunk)
        if total > limits.upload_bytes:
            raise _too_large(limits)
        yield chunk


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the request is above {limits.upload_bytes / 1e6:.0f} MB, the most that is taken")


def _keep(form: FormData, kind: str, folder: Path) -> Upload:
    """Writes the files of a form into a folder."""
    upload = Upload(folder, {})
    sent: dict[str, list[UploadFile]] = {name: [] for name in FILES}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name not in FILES:
                raise HTTPException(422, f"there is no field of files {name[:60]!r}; allowed are {', '.join(FILES)}")
            if value.filename or value.size:  # an input of a page that nothing was chosen in
                sent[name].append(value)
        elif name in upload.fields:
            raise HTTPException(422, f"the field {name[:60]!r} is there twice; separate numbers and names by commas")
        elif len(value) > LONGEST_FIELD or "\0" in value:
            raise HTTPException(422, f"the field {name[:60]!r} is no text of at most {LONGEST_FIELD} characters")
        elif value.strip() or name in ("negative_prompt",):
            upload.fields[name] = value.strip()
    if len(sent["cameras_file"]) > 1:
        raise HTTPException(422, "one cameras_file is taken, not several")
    if sent["cameras_file"] and "cameras" in upload.fields:
        raise HTTPException(422, "give cameras or cameras_file, not both")
    digests = []
    for name, files in sent.items():
        if not files:
            continue
        upload.names[name] = [_readable(file.filename or "file") for file in files]
        upload.files[name] = []
        for file, safe in zip(files, safe_names(upload.names[name]), strict=True):
            place = folder / name / safe
            place.parent.mkdir(parents=True, exist_ok=True)
            digests.append([name, safe, _copy(file.file, place)])
            upload.files[name].append(f"{name}/{safe}")
    folder.mkdir(parents=True, exist_ok=True)
    prompt = " ".join(upload.fields.get("prompt", "").split())
    (folder / "prompt.txt").write_text(prompt + "\n", encoding="utf-8", errors="replace")
    told = json.dumps([kind, sorted(upload.fields.items()), digests])
    upload.digest = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
    return upload


def _copy(source: BinaryIO, place: Path) -> str:
    digest = hashlib.sha256()
    source.seek(0)
    with place.open("xb") as target:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _readable(name: str) -> str:
    """A file's name as it may be shown: the last part, of characters that can be printed."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in last if character.isprintable())[-100:] or "file"


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 20 else 0


def discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
