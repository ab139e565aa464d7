"""What varying does to rows, setting by setting; all of them in one job."""

import msgspec
import numpy as np
import pytest

from fieldloop_cloud.train.nets import Augmentation

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0, 1, (40, 12, 10, 3)).astype(np.float32)
WINDOWS = RANDOM.normal(size=(40, 24, 2)).astype(np.float32)
RAMP = np.tile(np.arange(24, dtype=np.float32)[:, None], (40, 1, 1)).reshape(40, 24, 1)
FLAT = np.ones((40, 12, 12, 1), np.float32) * RANDOM.uniform(0, 1, (40, 1, 1, 1)).astype("f4")
DOT = np.zeros((40, 21, 21, 1), np.float32)
DOT[:, 10, 10] = 1.0

CASES = {
    "nothing": (Augmentation(), IMAGES, 1),
    "flip": (Augmentation(flip=True), IMAGES, 1),
    "flip again": (Augmentation(flip=True), IMAGES, 1),
    "flip otherwise": (Augmentation(flip=True), IMAGES, 2),
    "contrast": (Augmentation(contrast=0.3), IMAGES, 1),
    "flat": (Augmentation(shift=0.3, rotation_degrees=40, zoom=0.2), FLAT, 1),
    "dot": (Augmentation(shift=0.2), DOT, 1),
    "noise": (Augmentation(noise=0.1), np.zeros((40, 24, 2), np.float32), 1),
    "turned": (Augmentation(shift=0.25), WINDOWS, 1),
    "scaled": (Augmentation(scaling=0.2), WINDOWS, 1),
    "cropped": (Augmentation(crop=0.3), RAMP, 1),
}


@pytest.fixture(scope="module")
def varied(net_process, tmp_path_factory):
    job = tmp_path_factory.mktemp("vary")
    for number, (_, rows, _) in enumerate(CASES.values()):
        np.save(job / f"rows{number}.npy", rows)
    settings = [one for one, _, _ in CASES.values()]
    (job / "settings.json").write_bytes(msgspec.json.encode(settings))
    np.save(job / "seeds.npy", np.asarray([[7, key] for _, _, key in CASES.values()]))
    end = net_process.run_worker("tests.support.vary_job", job)
    assert end.code == 0, end.tail
    return {name: np.load(job / f"{number}.npy") for number, name in enumerate(CASES)}


def test_without_settings_rows_stay_what_they_are(varied):
    np.testing.assert_array_equal(varied["nothing"], IMAGES)


def test_some_images_are_mirrored_and_all_are_whole(varied):
    mirrored = [
        np.allclose(a, b[:, ::-1], atol=1e-5) for a, b in zip(varied["flip"], IMAGES, strict=True)
    ]
    kept = [np.allclose(a, b, atol=1e-5) for a, b in zip(varied["flip"], IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 8 < sum(mirrored) < 32


def test_the_same_seed_varies_alike_and_another_batch_otherwise(varied):
    np.testing.assert_array_equal(varied["flip"], varied["flip again"])
    assert np.abs(varied["flip"] - varied["flip otherwise"]).max() > 0.1


def test_contrast_keeps_the_mean_and_changes_the_spread_within_bounds(varied):
    axes = (1, 2, 3)
    np.testing.assert_allclose(varied["contrast"].mean(axes), IMAGES.mean(axes), atol=1e-5)
    ratio = varied["contrast"].std(axes) / IMAGES.std(axes)
    assert 0.7 <= ratio.min() < 0.9
    assert 1.1 < ratio.max() <= 1.3


def test_the_border_is_repeated_outwards(varied):
    np.testing.assert_allclose(varied["flat"], FLAT, atol=1e-5)


def test_a_shift_moves_as_far_as_it_may_and_no_further(varied):
    weight = varied["dot"].sum(axis=(1, 2, 3))
    np.testing.assert_allclose(weight, 1.0, atol=1e-4)
    rows = (varied["dot"][..., 0] * np.arange(21)[:, None]).sum(axis=(1, 2))
    columns = (varied["dot"][..., 0] * np.arange(21)).sum(axis=(1, 2))
    for moved in (rows - 10, columns - 10):
        assert np.abs(moved).max() <= 0.2 * 21 + 1e-3
        assert moved.min() < -1 < 1 < moved.max()


def test_noise_is_in_units_of_the_rows_spread(varied):
    assert varied["noise"].std() == pytest.approx(0.2, rel=0.1)


def test_a_window_is_turned_round_by_whole_steps(varied):
    turns = []
    for before, after in zip(WINDOWS, varied["turned"], strict=True):
        found = [n for n in range(24) if np.allclose(np.roll(before, -n, axis=0), after, atol=1e-5)]
        assert len(found) == 1
        turns.append(min(found[0], 24 - found[0]))
    assert 0 < max(turns) <= 6


def test_a_window_is_scaled_as_a_whole(varied):
    ratio = varied["scaled"] / WINDOWS
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-4)
    assert 0.8 <= ratio.min() < 0.9
    assert 1.1 < ratio.max() <= 1.2


def test_a_crop_is_stretched_to_the_full_length(varied):
    steps = np.diff(varied["cropped"][:, :, 0], axis=1)
    assert steps.min() >= 0.7 - 1e-3
    assert steps.max() <= 1.0 + 1e-3
    assert varied["cropped"].min() >= 0.0
    assert varied["cropped"].max() <= 23.0
