"""MVImgNet: about thirty stills of a phone's walk around an object, with COLMAP's cameras.

    <class>/<instance>/{images/001.jpg,sparse/0/{cameras.bin,images.bin}}

at any depth, as the archives unpack to ``mvi_00`` and so on. Poses have a scale of their own; the lens is distorted.
``sparse`` is empty where the reconstruction failed; ``images`` may hold pictures that were edited later, which
``images.bin`` does not name.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gen3r_jax.data.prepare.readers import folders_with
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit
from gen3r_jax.geometry.camera_files.colmap import read_cameras, read_images
from gen3r_jax.storage.files import inside


def find(raw: Path) -> list[Unit]:
    """One unit for each object: its folder."""
    return [Unit("/".join(folder.absolute().parts[-2:]), (folder,)) for folder in folders_with(raw, "sparse", 4)]


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    (folder,) = unit.paths
    scene, model = unit.key.replace("/", "_"), folder / "sparse" / "0"
    if not (model / "images.bin").exists():
        yield Recording(scene, scene, (), unfit="no cameras: the reconstruction failed (sparse/0 is empty)")
        return
    cameras = read_cameras(model / "cameras.bin")
    frames, dropped = [], Counter()
    for order, image in enumerate(sorted(read_images(model / "images.bin"), key=lambda image: image.name)):
        picture, camera = inside(folder / "images", image.name), cameras.get(image.camera)
        if camera is None or not picture.exists():
            dropped["no picture" if camera else "no camera"] += 1
            continue
        frames.append(
            RawFrame(image.name, order, picture, image.c2w, camera.focal, camera.centre, camera.size, camera.distortion)
        )
    yield Recording(scene, scene, frames, dropped=dropped)


DATA_SET = DataSet(
    name="mvimgnet",
    title="MVImgNet",
    site="https://github.com/GAP-LAB-CUHK-SZ/MVImgNet",
    licence="MVImgNet Terms of Use",
    scale="sfm",
    layout="<class>/<instance>/sparse/0/images.bin, at most four folders deep",
    find=find,
    read=read,
    min_frames=20,
)
