"""Weights from the Hugging Face Hub: ``owner/name`` or ``owner/name@revision``, by way of huggingface_hub's cache.

A file that is whole is not downloaded again, and a connection that breaks goes on where it was. ``HF_TOKEN``,
``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface_hub.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gen3r_jax.errors import UserError, notice, one_line
from gen3r_jax.storage.files import read_json

LICENCE = "licence.json"
"""Beside converted weights: ``source``, ``licence`` and, where the card has one, ``link``."""

_NEEDED = ("*.safetensors", "*.json", "tokenizer/*", "google/*", "README.md", "LICENSE*")
_PYTORCH = ("*.pt", "*.pth")
_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w.-]*(/[\w.-]+)*))?")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form ``owner/name`` or ``owner/name@revision``, such as ``owner/name@refs/pr/1``."""
    return _ID.fullmatch(name) is not None


def download(name: str, *, fetch: bool = True) -> Path:
    """The folder of a repository's files in the cache of huggingface_hub; those that are missing are downloaded.

    Args:
      name: as for :func:`is_hub_id`.
      fetch: whether anything may be downloaded.

    Raises:
      UserError: no such repository or revision, no access, no network, too little space.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    found = _ID.fullmatch(name)
    assert found is not None, name  # callers have asked is_hub_id
    repository, revision = found.group("repository", "revision")

    def snapshot(patterns: tuple[str, ...]) -> Path:
        wanted = {"revision": revision, "allow_patterns": list(patterns)}
        if fetch:
            with suppress(DryRunError):  # no network: what follows finds all in the cache, or says so
                files = snapshot_download(repository, **wanted, dry_run=True)
                _announce(name, sum(file.file_size or 0 for file in files if file.will_download))
        return Path(snapshot_download(repository, **wanted, local_files_only=not fetch))

    with _one_line(name, repository, constants.ENDPOINT):
        folder = snapshot(_NEEDED)
        return folder if any(folder.rglob("*.safetensors")) else snapshot((*_NEEDED, *_PYTORCH))


def source_of(folder: Path) -> str | None:
    """``owner/name@commit`` where `folder` is what :func:`download` returns; None for other folders."""
    repository, snapshots, commit = folder.absolute().parts[-3:] if len(folder.absolute().parts) > 3 else ("", "", "")
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return None
    return f"{repository.removeprefix('models--').replace('--', '/')}@{commit}"


def card_licence(folder: Path) -> dict[str, str]:
    """What :data:`LICENCE` is to hold of an official folder, by the model card in its ``README.md``; else empty."""
    from huggingface_hub.repocard import metadata_load

    try:
        card = metadata_load(folder / "README.md") or {}
    except Exception:  # no card, or none that can be read: YAML has errors of its own
        card = {}
    licence = card.get("license_name") or card.get("license")
    source = source_of(folder)
    if not licence and not source:
        return {}
    told = {"source": source or folder.name, "licence": str(licence or "unknown, see its page on the Hub")}
    return told | ({"link": str(card["license_link"])} if card.get("license_link") else {})


def read_licence(weights: Path) -> str:
    """The licence of a folder of converted weights in words; empty where the folder does not say."""
    if not (weights / LICENCE).exists():
        return ""
    fields = read_json(weights / LICENCE)
    licence = str(fields.get("licence", "unknown"))
    bound = ", not for commercial use" if re.search(r"\bnc\b|non-?commercial", licence, re.IGNORECASE) else ""
    link = f", {fields['link']}" if "link" in fields else ""
    return f"{licence}{bound}{link} (of {fields.get('source', 'unknown')})"


def _announce(name: str, size: int) -> None:
    """Tells of a download. Raises UserError where the disk has too little space for it."""
    from huggingface_hub import constants

    if not size:
        return
    cache = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(
            f"{name} needs {size / 1e9:.2f} GB, but {place} has {free / 1e9:.2f} GB free; make room, or set HF_HOME to "
            "a folder on another disk"
        )
    notice(f"downloading {name}, {size / 1e9:.2f} GB, to {cache}, once")


@contextmanager
def _one_line(name: str, repository: str, endpoint: str) -> Iterator[None]:
    """Turns errors of huggingface_hub into a UserError that says what to do."""
    from huggingface_hub import errors

    token = "set HF_TOKEN to a token of huggingface.co, or run: hf auth login"
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(f"{name} is gated: ask for access at {endpoint}/{repository}, then {token}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"no weights at {name}: there is no such folder here and no such repository at {endpoint}; if it is "
            f"private, {token}. pretrained/nano is the small model that is part of gen3r_jax"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{name}: {repository} has no such revision; see {endpoint}/{repository}/commits/main"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        why = f" ({one_line(error.__cause__)[:80]})" if error.__cause__ else ""
        raise UserError(
            f"no weights at {name}: there is no such folder here, and a whole copy of that repository is not in the "
            f"cache and cannot be had from {endpoint} now{why}; connect, unset HF_HUB_OFFLINE, or give pretrained/nano"
        ) from None
    except Exception as error:  # of the network, the disk or the library, each of its own kind
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; make room, or set HF_HOME to a folder on another disk"
        else:
            reason = f"{one_line(error)[:200]}; the same command goes on"
        raise UserError(f"cannot download {name}: {reason}") from error
