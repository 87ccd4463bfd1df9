"""The comparison of the paper's ablations: the distance of latents, and when an order holds."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import ablations
from gen3r_jax.evaluation.latents import frechet_distance
from gen3r_jax.evaluation.tables import METRICS


def whitened(count, channels, seed):
    """Vectors with mean 0 and covariance 1 exactly."""
    x = np.random.default_rng(seed).normal(size=(count, channels))
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_frechet_distance_of_normal_distributions():
    a, b = whitened(50, 3, 0), whitened(80, 3, 1)
    spreads, other, shift = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.5, 3.0]), np.array([1.0, 0.0, -2.0])
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]  # of both: it changes nothing
    expected = np.sum(shift**2) + np.sum((spreads - other) ** 2)
    assert frechet_distance(a * spreads @ turn, (b * other + shift) @ turn) == pytest.approx(expected)
    assert frechet_distance(a * spreads @ turn, b * spreads @ turn) == pytest.approx(0, abs=1e-9)
    # Covariances that do not commute, in two dimensions: tr (A B)^(1/2) = (tr A B + 2 det(A B)^(1/2))^(1/2).
    first, second = np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    a, b = (whitened(60, 2, i) @ np.linalg.cholesky(c).T for i, c in enumerate((first, second)))
    overlap = np.sqrt(np.trace(first @ second) + 2 * np.sqrt(np.linalg.det(first @ second)))
    assert frechet_distance(a, b) == pytest.approx(10 - 2 * overlap)


def papers_order(noise=0.0):
    """Numbers of one training in the order of every comparison."""
    seed = {}
    for comparison in ablations.COMPARISONS:
        for place, entry in enumerate(comparison.entries):
            better = entry.metric != "frechet" and METRICS[entry.metric].better == "↑"
            value = (5 - place if better else 5 + place) + noise
            seed.setdefault(entry.variant, {}).setdefault(entry.row, {})[entry.metric] = float(value)
    return seed


def lines(seeds):
    rows = [line[2:-2].split(" | ") for line in ablations.report(seeds, scenes=2).splitlines() if "|" in line]
    return {(row[0], row[1]): row for row in rows[2:]}


def test_an_order_holds_if_the_means_have_it():
    seeds = [papers_order(), papers_order(0.5)]
    found = lines(seeds)
    assert len(found) == len(ablations.COMPARISONS) and all(row[-2:] == ["yes", "2 of 2"] for row in found.values())
    chamfer = found["Table 4", "Chamfer ↓, 1view+cameras"]
    assert chamfer[2:5] == ["Gen3R 5.2500 ± 0.3536", "2-Stage 6.2500 ± 0.3536", "w/o KL 7.2500 ± 0.3536"]

    seeds[0]["no_kl"]["gen3r/1view+cameras"]["chamfer"] = 5.9  # better than 2-Stage once, and not in the mean
    seeds[0]["joint"]["rgb_head/allview"]["psnr"] = 6.0  # better than the VAE once and in the mean
    seeds[1]["joint"]["rgb_head/allview"]["psnr"] = 5.4
    seeds[1]["two_stage"]["gen3r/2view+cameras"].pop("auc_30")
    found = lines(seeds)
    assert found["Table 4", "Chamfer ↓, 1view+cameras"][-2:] == ["yes", "1 of 2"]
    assert found["Table 9", "PSNR, dB ↑, allview"][-2:] == ["no", "1 of 2"]
    assert found["Table 5", "AUC@30° ↑, 2view+cameras"][3:] == ["2-Stage n/a", "w/o KL 3.2500 ± 0.3536", "n/a", ""]
    assert found["Table 5", "AUC@30° ↑, 1view+cameras"][-2] == "yes", "a row says nothing of another"


def test_bad_input_is_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.ablations",
        f"--weights={tmp_path}",
        "--data=x",
        "--wan_dit=x",
        f"--output={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "lacks umt5, clip_vision, wan_vae, vggt, tokenizer, scheduler.json" in done.stderr
