"""The library as a user calls it: any form of picture and camera, the folder's defaults, a saved scene."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import gen3r_jax
from conversion.lora import write_lora
from gen3r_jax import VGGT, Gen3RPipeline, generate, info, load_images
from gen3r_jax.errors import UserError
from gen3r_jax.export.pointcloud import confident_pixels
from gen3r_jax.export.read import read_scene
from gen3r_jax.generation.request import Request
from gen3r_jax.geometry.cameras import Cameras
from gen3r_jax.models import vggt as network
from gen3r_jax.models.vggt import VGGTConfig
from gen3r_jax.stages.random_weights import random_network
from gen3r_jax.storage.checkpoint import save_weights
from tests.helpers.paths import NANO

PROMPT = "a table on a field"
QUICK = {"num_inference_steps": 1}


@pytest.fixture(scope="module")
def pipeline():
    return Gen3RPipeline.from_pretrained(str(NANO))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A picture of another size than the weights were made for."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.open(NANO / "example.png").convert("RGB").resize((180, 150)).save(path)
    return path


@pytest.fixture(scope="module")
def result(pipeline, photo):
    return pipeline(PROMPT, str(photo), "orbit_left", camera_angle=20.0, **QUICK)


def test_defaults_are_those_of_the_folder(pipeline):
    said = json.loads((NANO / "generation.json").read_text())
    assert {name: getattr(pipeline.settings, name) for name in said} == said


@pytest.mark.parametrize("form", ["pil", "float", "batch"])
def test_every_form_of_a_picture_gives_the_same(pipeline, photo, result, form):
    array = np.asarray(Image.open(photo))
    pictures = {
        "pil": Image.open(photo),
        "float": array.astype(np.float32) / 255,
        "batch": load_images(photo, 112)[None],
    }
    again = pipeline(PROMPT, pictures[form], "orbit_left", camera_angle=20.0, progress=False, **QUICK)
    np.testing.assert_allclose(again.rgbs, result.rgbs, atol=1e-4 if form == "float" else 0)


def test_a_lora_changes_the_scene_and_compiles_nothing(photo, result, tmp_path):
    pipeline = Gen3RPipeline.from_pretrained(str(NANO))
    *layers, inputs, outputs = pipeline.network("wan_dit")[1]["blocks"]["mlp"]["up"]["kernel"].shape
    rng = np.random.default_rng(0)
    sizes = {"down": (*layers, inputs, 2), "up": (*layers, 2, outputs)}
    factors = {part: rng.normal(0, 0.1, size).astype(np.float32) for part, size in sizes.items()}
    write_lora(tmp_path, {"blocks.mlp.up.kernel": factors}, 1.0)
    pipeline.load_lora(tmp_path / "lora.safetensors", 0.5)
    changed = pipeline(PROMPT, str(photo), "orbit_left", camera_angle=20.0, progress=False, **QUICK)
    assert np.abs(changed.rgbs - result.rgbs).max() > 1e-3
    assert changed.report.options["lora"] == [f"{tmp_path}/lora.safetensors:0.5"]
    assert not any("sampl" in stage["stage"].lower() and stage["compile_seconds"] > 0.1
                   for stage in changed.report.document()["stages"])  # fmt: skip


def test_the_command_gives_the_same_bits(photo, result, tmp_path):
    given = ["--weights", str(NANO), "--images", str(photo), "--prompt", PROMPT, "--cameras", "orbit_left"]
    how = ["--camera_angle", "20", "--num_inference_steps", "1", "--format", "maps", "sheet"]
    assert generate.main([*given, *how, "--output", str(tmp_path / "scene")]) == 0
    result.save(tmp_path / "saved", formats=("maps", "sheet"))
    for name in ("depth.npz", "confidence.npz"):
        for array in np.load(tmp_path / "saved" / name).values():
            (other,) = np.load(tmp_path / "scene" / name).values()
            np.testing.assert_array_equal(array, other)
    assert (tmp_path / "saved" / "cameras.json").read_text() == (tmp_path / "scene" / "cameras.json").read_text()


def test_a_saved_scene_is_whole(result, tmp_path):
    result.save(tmp_path / "out")
    assert "without run.json" not in "\n".join(info.describe(tmp_path / "out"))
    scene = read_scene(tmp_path / "out")
    assert scene.prompt == PROMPT and scene.rgb.shape == (9, 112, 112, 3)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["format_version"] == 1 and run["options"]["num_inference_steps"] == 1
    with pytest.raises(UserError, match="is there already"):
        result.save(tmp_path / "out")
    with pytest.raises(UserError, match="sample 1 of 1"):
        result.save(tmp_path / "other", sample=1)


def test_the_geometry_may_be_that_of_the_video(pipeline, photo, result, tmp_path):
    both = pipeline(PROMPT, str(photo), "orbit_left", camera_angle=20.0, geometry="both", progress=False, **QUICK)
    np.testing.assert_array_equal(both.rgbs, result.rgbs)
    video = pipeline.reread(result, "video", free_cameras=False)
    for output in (both, video):  # cameras that were asked for stay as they were generated
        np.testing.assert_array_equal(output.cameras[0], result.cameras[0])
    assert np.median(video.depth_maps / result.depth_maps) == pytest.approx(1, abs=1e-3)
    near, far = (choose(video.depth_maps, result.depth_maps) for choose in (np.minimum, np.maximum))
    assert (both.depth_maps >= 0.9999 * near).all() and (both.depth_maps <= 1.0001 * far).all()
    assert np.abs(video.depth_maps - result.depth_maps).max() > 0.01

    w2c = pipeline.reread(result, "video", free_cameras=True).cameras[0]
    assert not np.allclose(w2c, result.cameras[0], atol=1e-3)
    lengths = [np.linalg.norm(poses[0, :, :, 3], axis=1).mean() for poses in (w2c, result.cameras[0])]
    assert 0.2 < lengths[0] / lengths[1] < 5  # in the same unit

    assert both.agreement is not None
    both.save(tmp_path / "out", formats=("video", "maps", "sheet"))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["results"]["agreement"] == both.agreement[0].depth and run["options"]["geometry"] == "both"
    np.testing.assert_allclose(read_scene(tmp_path / "out").agreement, both.agreement[0].map, atol=1e-3)


def test_a_video_without_geometry_has_one_reading_alone():
    appearance = Gen3RPipeline(lambda name: None, None, text_length=0, shift=2.0, joint=False)
    with pytest.raises(UserError, match=r"geometry 'both': these weights generate the video alone"):
        appearance(PROMPT, np.zeros((1, 1, 112, 112, 3), np.float32), geometry="both")


def test_cameras_may_be_given_as_such(pipeline, photo):
    c2w = np.tile(np.eye(4), (5, 1, 1))
    c2w[:, 0, 3] = np.linspace(0, 1, 5)
    intrinsics = np.tile(np.array([[200.0, 0, 90], [0, 200.0, 75], [0, 0, 1]]), (5, 1, 1))
    inputs = pipeline.prepare([PROMPT], [photo], Cameras(c2w, intrinsics, np.tile([150, 180], (5, 1))), 5)
    poses, focal = inputs.poses[0]
    np.testing.assert_array_equal(poses, c2w)
    np.testing.assert_allclose(focal[0, 0, 0], 200 * 112 / 150, rtol=0.01)
    assert inputs.maps.shape == (1, 5, 112, 112, 6)
    ends = Cameras(c2w, intrinsics, np.tile([150, 180], (5, 1))).take([0, 4])
    inputs = pipeline.prepare([PROMPT], [photo], ends, 5, camera_easing="ends", camera_scale=4)
    np.testing.assert_allclose(inputs.poses[0][0][:, 0, 3], [0, 0.625, 2, 3.375, 4])  # 4 (3 t^2 - 2 t^3)
    for options, message in (
        ({"camera_scale": -1.0}, "camera_scale must be above 0, not -1.0"),
        ({"camera_easing": "x"}, "is none of"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.prepare([PROMPT], [photo], ends, 5, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.c2w[1].__setitem__((0, 0), -1), "cameras: camera 1 is mirrored"),
        (lambda c: c.c2w[2].__setitem__((0, 3), 1e38), r"cameras: camera 2 is 1e\+38 away from the origin"),
        (lambda c: c.c2w[3].__setitem__(slice(None), c.c2w[3].T.copy()), "cameras: camera 3 is transposed"),
        (lambda c: c.intrinsics[0].__setitem__((1, 1), np.nan), "cameras: camera 0 needs finite intrinsics"),
        (lambda c: c.sizes[4].__setitem__(0, 0), "cameras: camera 4 needs an image size of positive numbers"),
        (lambda c: vars(c).update(c2w=c.c2w[:, :3]), r"cameras need c2w \[t, 4, 4\]"),
        (lambda c: vars(c).update(vars(c.take([]))), "cameras holds no cameras"),
    ],
)
def test_cameras_that_cannot_be_meant_are_refused_as_in_a_file(pipeline, photo, change, message):
    intrinsics = np.tile(np.array([[200.0, 0, 90], [0, 200.0, 75], [0, 0, 1]]), (5, 1, 1))
    cameras = Cameras(np.tile(np.eye(4), (5, 1, 1)), intrinsics, np.tile([150, 180], (5, 1)))
    cameras.c2w[:, 0, 3] = np.linspace(0, 1, 5)
    change(cameras)
    with pytest.raises(UserError, match=message):
        pipeline.prepare([PROMPT], [photo], cameras, 5)


def test_maps_that_are_not_finite_are_refused(pipeline, photo):
    with pytest.raises(UserError, match="control_cameras are not finite"):
        pipeline.prepare([PROMPT], [photo], np.full((1, 5, 112, 112, 6), np.nan), 5)


def test_what_the_text_encoder_cannot_read_is_told_or_refused(pipeline, photo, capsys):
    pipeline._tokenize(["a zebra on a table", "a zebra"], 16)
    assert capsys.readouterr().err == "the text encoder does not know: zebra\n"
    with pytest.raises(UserError, match="prompt is no text"):
        pipeline.prepare(["caf\udce9"], photo)


@pytest.mark.parametrize("form", ["path", "pil", "request"])
def test_no_points_are_made_of_transparent_pixels(pipeline, result, tmp_path, form):
    pixels = np.full((112, 112, 4), 200, np.uint8)
    pixels[:, 40:, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    pictures = {
        "path": tmp_path / "cut.png",
        "pil": Image.fromarray(pixels),
        "request": Request(images=(str(tmp_path / "cut.png"),), prompt=PROMPT).pictures(),
    }
    inputs = pipeline.prepare([PROMPT], pictures[form], None, 9)
    assert (inputs.images[0, 0, :, 40:] == 1).all()
    np.testing.assert_array_equal(inputs.known, pixels[None, None, ..., 3] > 0)
    cut = result.without(~inputs.known, inputs.given)
    assert (cut.depth_confidence[0, 0] > 0).sum() == 112 * 40 >= cut.point_masks[0, 0].sum() > 0
    np.testing.assert_array_equal(cut.depth_confidence[:, 1:], result.depth_confidence[:, 1:])
    assert not confident_pixels(cut.scene(), 0).reshape(9, 112, 112)[0, :, 40:].any()


@pytest.mark.parametrize(
    ("fit", "size", "focal", "centre"),
    [
        ("crop", (336, 336), 3.36 * 100, (3.36 * 100 - 168, 3.36 * 50)),
        ("whole", (224, 448), 2.24 * 100, (2.24 * 100, 2.24 * 50)),
        ("pad", (336, 336), 1.68 * 100, (1.68 * 100, 1.68 * 50 + 84)),
    ],
)
def test_pictures_of_other_aspects(pipeline, fit, size, focal, centre):
    """What is shown of a picture of 200 x 100, and the same pixels of its camera."""
    picture = np.zeros((100, 200, 3), np.float32)
    camera = Cameras(np.eye(4)[None], np.array([[[100.0, 0, 100], [0, 100, 50], [0, 0, 1]]]), np.array([[100, 200]]))
    inputs = pipeline.prepare([PROMPT], picture, camera, 1, 336, fit=fit)
    assert inputs.images.shape == (1, 1, *size, 3) and inputs.maps.shape == (1, 1, *size, 6)
    np.testing.assert_allclose(inputs.poses[0][1], [[[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]]])
    shown = np.zeros(size, bool)
    shown[84:252] = True
    if fit == "pad":
        np.testing.assert_array_equal(inputs.known[0, 0], shown)
        assert (inputs.images[0, 0, ~shown] == 1).all() and (inputs.images[0, 0, shown] == 0).all()
    else:
        assert inputs.known is None and (inputs.images == 0).all()
    with pytest.raises(UserError, match="fit 'stretch' is none of crop, whole, pad"):
        pipeline.prepare([PROMPT], picture, camera, 1, 336, fit="stretch")


def test_a_lens_is_taken_out_of_pictures_that_its_file_names(pipeline, tmp_path, capsys):
    """COLMAP projects a point through its lens; in what the networks see it is where a pinhole has it."""
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra: dev)")
    lens = pycolmap.Camera(model="SIMPLE_RADIAL", width=400, height=400, params=[300, 200, 190, -0.15], camera_id=1)
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(lens)
    for number in (0, 1):
        image = pycolmap.Image(name=f"left/{number}.png", camera_id=1, image_id=number + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.eye(4)[:3]))
    model.write_binary(tmp_path)
    ray = np.array([0.4, -0.3, 1])
    seen_x, seen_y = lens.img_from_cam(ray)
    y, x = np.mgrid[:400, :400] + 0.5
    spot = np.exp(-((x - seen_x) ** 2 + (y - seen_y) ** 2) / 50)
    for name in ("0.png", "other.png"):
        Image.fromarray(np.rint(255 * spot[..., None].repeat(3, -1)).astype(np.uint8)).save(tmp_path / name)
    inputs = pipeline.prepare([PROMPT], tmp_path / "0.png", tmp_path, 1, 224)
    assert "its lens distortion is taken out of the pictures" in capsys.readouterr().err
    found, (y, x) = inputs.images[0, 0, ..., 0], np.mgrid[:224, :224] + 0.5
    middle = np.array([(found * x).sum(), (found * y).sum()]) / found.sum()
    projected = inputs.poses[0][1][0] @ ray
    assert np.abs(middle - projected[:2]).max() < 0.2
    assert np.abs(np.array([seen_x, seen_y]) - (300 * ray[:2] + [200, 190])).max() > 4  # of 400: what the lens does
    with pytest.raises(UserError, match=r"camera 0 \(left/0.png\) has a distorted lens \(k1 = -0.15\)"):
        pipeline.prepare([PROMPT], tmp_path / "other.png", tmp_path, 1, 224)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "no images"),
        ([], "no images"),
        ("nowhere.png", "does not exist"),
        (np.zeros((10, 10)), "needed is"),
        (np.full((10, 10, 3), 7.0), "from 0 to 1"),
        (np.zeros((0, 10, 3)), "shape"),
    ],
)
def test_what_is_no_picture_is_refused(pipeline, images, message):
    with pytest.raises(UserError, match=message):
        pipeline(PROMPT, images)


def test_other_sizes_than_the_weights_were_made_for_are_told(pipeline, photo, capsys):
    pipeline.prepare([PROMPT], photo, None, 13, (112, 224))
    assert "made for 9 frames of 112 x 112; 13 frames of 224 x 112 may look worse" in capsys.readouterr().err


def test_vggt_alone(photo, tmp_path):
    config = VGGTConfig.tiny()
    save_weights(tmp_path / "vggt", network.VGGT, config, random_network(network.VGGT, config, seed=0))
    images = load_images([photo, photo], (56, 56))
    assert images.shape == (2, 56, 56, 3) and images.dtype == np.float32
    prediction = VGGT.from_pretrained(tmp_path)(images)
    assert prediction["pose_enc"].shape == (1, 2, 9)
    assert prediction["depth"].shape == (1, 2, 56, 56, 1) and (prediction["depth"] > 0).all()
    assert prediction["depth_conf"].shape == prediction["world_points_conf"].shape == (1, 2, 56, 56)
    assert prediction["world_points"].shape == (1, 2, 56, 56, 3)
    with pytest.raises(UserError, match="multiples of 14"):
        VGGT.from_pretrained(tmp_path / "vggt")(images[:, :50])


def test_pictures_are_loaded_as_vggts_own_loader_does(photo):
    assert load_images([photo]).shape == (1, 434, 518, 3)  # 150 / 180 * 518 = 431.7
    assert load_images(np.zeros((300, 100, 3), np.uint8)).shape == (1, 518, 518, 3)


def test_what_does_not_run_on_windows_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="runs on Linux and macOS"):
        gen3r_jax.Gen3RPipeline  # noqa: B018


def test_public_names_are_imported_when_they_are_asked_for():
    code = "import sys, gen3r_jax; assert 'jax' not in sys.modules; print(gen3r_jax.__version__, *dir(gen3r_jax))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == gen3r_jax.__version__
    for name in gen3r_jax.__all__:
        assert name in told and getattr(gen3r_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gen3r_jax.nothing  # noqa: B018
