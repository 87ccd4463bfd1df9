"""Clips that are encoded once: how machines share the files."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save

from gen3r_jax.data import encoded
from gen3r_jax.data.encoded import Header, SampleWriter, make_encoded_loader, read_header, read_sample
from gen3r_jax.data.loader import DataOptions
from gen3r_jax.data.shards import RecordWriter
from gen3r_jax.errors import UserError
from gen3r_jax.stages import encoding

CLIPS = {"test": 3, "train": 20}


class Numbers:
    """Stands for a loader: batches that hold their clips' numbers."""

    def __init__(self, batch_size: int, split: str):
        self.size, self.split, self.position = batch_size, split, 0

    def set_state(self, state: dict[str, int]) -> None:
        self.position = state["next_index"]

    def __iter__(self):
        return self

    def __next__(self) -> np.ndarray:
        first = self.size * self.position
        self.position += 1
        return np.arange(first, first + self.size)

    def close(self) -> None:
        pass


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes a part of both splits."""

    def samples(encoder, frozen, batch, dtype):
        for number in batch:
            yield str(number), {"text": np.ones((1, 1)), "number": np.array(number)}

    def loader(options, *, num_frames, side, seed, batch_size, split):
        return Numbers(batch_size, split)

    def encode_texts(frozen, texts):
        return np.zeros((len(texts), 1, 1))

    encoder = SimpleNamespace(frozen=(), texts=("", "bad"), joint=True, encode_texts=encode_texts)
    validation = SimpleNamespace(clips=CLIPS["test"], split="test")
    counts = {"train": SimpleNamespace(side=112, seed=0), "validation": validation}
    monkeypatch.setattr(encoding, "samples", samples)
    monkeypatch.setattr(encoding, "make_loader", loader)

    def run(part: tuple[int, int], data: DataOptions | None = None, **numbers: int) -> None:
        options = SimpleNamespace(data=data or DataOptions(), **counts)
        how = encoding.Encoding(**{"clips": CLIPS["train"], "batch": 2, "per_file": 4, **numbers})
        encoding.encode(encoder, options, 9, {}, tmp_path, how, part)

    return run


def test_parts_share_the_files(write, tmp_path, caplog):
    write((1, 2))
    assert {path.name[:11] for path in tmp_path.glob("*.array_record")} == {"train-00001", "train-00003"}
    with caplog.at_level("WARNING"):
        make_encoded_loader(tmp_path, DataOptions(), batch_size=2, num_frames=9, side=112, seed=0).close()
    assert "8 of 20 clips of the split 'train'" in caplog.text
    write((0, 2))
    assert len(list(tmp_path.glob("[!.]*"))) == 2 + 1 + 5
    for split, clips in {"test": 4, "train": 20}.items():  # whole batches
        sizes = {"batch_size": clips, "num_frames": 9, "side": 112}
        data = make_encoded_loader(tmp_path, DataOptions(), **sizes, seed=0, split=split)
        assert sorted(next(data)["number"].tolist()) == list(range(clips))
        data.close()


def test_other_clips_do_not_mix(write):
    write((0, 1))
    write((0, 1), data=DataOptions(workers=3))  # makes no difference
    for change in ({"data": DataOptions(num_scenes=7)}, {"clips": 24}, {"per_file": 8}, {"batch": 1}):
        with pytest.raises(UserError, match="were made with other clips; choose another folder"):
            write((0, 1), **change)


def test_a_folder_from_before_an_option_existed(tmp_path):
    def header(**changes):
        data = {name: value for name, value in (asdict(DataOptions()) | changes).items() if value is not None}
        return Header(9, 112, True, "float16", {}, {"data": data}, {"": np.zeros((1, 1))})

    header(normalize=None).write(tmp_path)
    header().write(tmp_path)
    with pytest.raises(UserError, match="were made with other clips"):
        header(normalize=True).write(tmp_path)


def test_one_file_has_one_writer(tmp_path):
    with SampleWriter(tmp_path, "train", 0) as first:
        first.add("a", {"text": np.ones((1, 1))})
        with pytest.raises(UserError, match="is in use by"), SampleWriter(tmp_path, "train", 0):
            pass
        first.add("b", {"text": np.ones((1, 1))})
    assert [read_sample(first.file, i)["sample_id"] for i in range(2)] == ["a", "b"]


def test_a_damaged_sample_says_so(tmp_path):
    writer = RecordWriter(tmp_path / "train-00000.array_record", {"format": encoded.FORMAT, "count": 1})
    with writer:
        writer.write(b"no safetensors at all")
    with pytest.raises(UserError, match="sample 0 is damaged"):
        read_sample(writer.file, 0)


def test_parts_may_begin_at_once(tmp_path, monkeypatch):
    header = Header(9, 112, True, "float16", {"wan_vae": "1"}, {"train": 1}, {"": np.zeros((4, 8))})
    together = Barrier(2, timeout=60)

    def save_together(*arguments, **options) -> bytes:
        together.wait()
        return save(*arguments, **options)

    monkeypatch.setattr(encoded, "save", save_together)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: header.write(tmp_path), range(2)))
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"header.safetensors", "hashes.json"}
    assert read_header(tmp_path).networks == header.networks
