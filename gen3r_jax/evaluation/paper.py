"""The numbers of the Gen3R paper (arXiv 2601.04090), to stand beside ours.

Metrics, tasks and sets have the names that they have here, methods those of the paper (GF: Geometry Forcing). Which
scenes the paper used is not published.
"""

from typing import NamedTuple


class PaperTable(NamedTuple):
    """A table, or a part: ``rows[method, task][dataset][metric]``. cameras: whether the methods were given them."""

    number: int
    cameras: bool
    rows: dict[tuple[str, str], dict[str, dict[str, float]]]


class Reported(NamedTuple):
    """A number of the paper, and of which table."""

    value: float
    table: int


# The names of ours that differ from the paper's name in small letters.
_METHODS = {
    "Gen3R (VAE only)": "vae_only",
    "Wan RGB VAE": "vae_only",
    "WVD (VAE only)": "wvd_vae_only",
    "VGGT + RGB head": "rgb_head",
}


def reported(dataset: str) -> dict[str, dict[str, Reported]]:
    """The paper's numbers on a set, by the names of our rows (``gen3r/1view+cameras``), then by metric.

    Empty for a set that the paper does not use. Table 4 repeats numbers of Tables 1 and 2, which then count.
    """
    found: dict[str, dict[str, Reported]] = {}
    for table in TABLES:
        for (method, task), sets in table.rows.items():
            name = _METHODS.get(method, method.lower())
            # VGGT reconstructs the given frames; it cannot be given cameras.
            row = f"{name}/{task}{'+cameras' * (table.cameras and name != 'vggt')}"
            for metric, value in sets.get(dataset, {}).items():
                found.setdefault(row, {}).setdefault(metric, Reported(value, table.number))
    return found


def _table(number: int, cameras: bool, metrics: str, datasets: str, text: str) -> PaperTable:
    """A line of `text` holds task and method, then the numbers, set by set."""
    rows = {}
    for line in text.strip().splitlines():
        head, *cells = (part.split() for part in line.split("|"))
        numbers = [dict(zip(metrics.split(), map(float, cell), strict=True)) for cell in cells]
        rows[" ".join(head[1:]), head[0]] = dict(zip(datasets.split(), numbers, strict=True))
    return PaperTable(number, cameras, rows)


TABLES = (
    _table(
        1,
        True,
        "psnr ssim lpips i2v_subject i2v_background imaging_quality",
        "re10k dl3dv",
        """
        1view   LVSM       | 18.97 0.7161 0.2992 0.9946 0.9933 0.4923 | 15.61 0.5384 0.4434 0.9635 0.9675 0.4262
        1view   Gen3C      | 20.26 0.7186 0.2302 0.9931 0.9927 0.5200 | 16.21 0.5557 0.4575 0.9427 0.9547 0.4204
        1view   GF         | 16.32 0.5434 0.3803 0.9882 0.9789 0.5614 | 12.05 0.3458 0.5801 0.9335 0.9307 0.5410
        1view   Aether     | 16.57 0.6374 0.3808 0.9927 0.9910 0.5419 | 13.82 0.5167 0.5272 0.9589 0.9653 0.4571
        1view   WVD        | 17.62 0.6658 0.3300 0.9935 0.9932 0.5847 | 14.25 0.4848 0.5063 0.9531 0.9613 0.5466
        1view   Gen3R      | 20.51 0.7388 0.2281 0.9951 0.9952 0.5993 | 16.38 0.5821 0.4234 0.9657 0.9715 0.5497
        2view   DepthSplat | 26.67 0.8711 0.1742 0.9909 0.9867 0.4379 | 16.83 0.6094 0.3971 0.9505 0.9532 0.3855
        2view   LVSM       | 29.58 0.9197 0.1060 0.9954 0.9943 0.5173 | 18.80 0.6404 0.3575 0.9704 0.9736 0.4616
        2view   Gen3C      | 23.83 0.8340 0.1947 0.9936 0.9930 0.5191 | 17.91 0.6120 0.4207 0.9470 0.9566 0.4239
        2view   GF         | 23.28 0.7426 0.2098 0.9893 0.9798 0.5614 | 14.39 0.4152 0.5160 0.9050 0.9110 0.4911
        2view   Aether     | 21.77 0.7645 0.2241 0.9919 0.9901 0.5258 | 15.68 0.5565 0.4555 0.9619 0.9676 0.4708
        2view   WVD        | 23.78 0.7948 0.1949 0.9935 0.9926 0.5795 | 15.72 0.5522 0.4510 0.9520 0.9597 0.5584
        2view   Gen3R      | 27.05 0.8732 0.1352 0.9948 0.9946 0.6025 | 18.59 0.6149 0.3416 0.9685 0.9725 0.5623
        """,
    ),
    _table(
        2,
        True,
        "accuracy completeness chamfer",
        "co3d wildrgbd tartanair",
        """
        1view   Aether | 1.2630 2.6366 1.9498 | 0.3181 0.2951 0.3066 | 3.1547 4.5366 3.8457
        1view   WVD    | 1.8038 1.4237 1.6137 | 0.2708 0.2562 0.2635 | 4.3944 3.0660 3.7302
        1view   VGGT   | 0.3291 4.3830 2.3561 | 0.0346 0.6723 0.3534 | 0.7379 5.3595 3.0487
        1view   Gen3R  | 0.8284 1.3811 1.1047 | 0.1581 0.2402 0.1992 | 3.0250 2.5367 2.7809
        2view   Aether | 0.9664 2.1376 1.5520 | 0.3536 0.2540 0.3038 | 2.7745 3.4420 3.1082
        2view   WVD    | 2.1153 1.3009 1.7081 | 0.2483 0.1813 0.2148 | 4.3794 2.5268 3.4531
        2view   VGGT   | 0.3951 2.1566 1.2759 | 0.0276 0.2650 0.1463 | 0.9201 3.2554 2.0877
        2view   Gen3R  | 0.7237 1.2298 0.9767 | 0.1109 0.1744 0.1426 | 2.2825 1.6643 1.9734
        """,
    ),
    _table(
        3,
        False,
        "accuracy completeness chamfer",
        "co3d wildrgbd tartanair",
        """
        allview VGGT             | 0.9157 1.0107 0.9632 | 0.0925 0.1405 0.1165 | 2.2929 0.8985 1.5957
        allview WVD (VAE only)   | 1.0533 1.3627 1.2080 | 0.1273 0.1780 0.1526 | 3.5337 2.0396 2.7867
        allview Gen3R (VAE only) | 0.9236 1.0735 0.9986 | 0.0929 0.1400 0.1165 | 2.2972 1.0063 1.6518
        allview Aether           | 1.7755 1.2280 1.5018 | 0.3033 0.1665 0.2349 | 3.0287 2.3684 2.6985
        allview WVD              | 1.7997 1.4609 1.6303 | 0.2758 0.1542 0.2150 | 3.8018 2.0820 2.9419
        allview Gen3R            | 0.9270 0.9980 0.9625 | 0.1058 0.1463 0.1260 | 1.9243 1.0959 1.5101
        """,
    ),
    _table(
        4,
        True,
        "psnr ssim lpips",
        "re10k dl3dv",
        """
        1view   2-Stage | 17.38 0.6617 0.3412 | 14.37 0.5085 0.5014
        1view   w/o KL  | 16.31 0.6476 0.3941 | 13.68 0.4797 0.5094
        1view   Gen3R   | 20.51 0.7388 0.2281 | 16.38 0.5821 0.4234
        2view   2-Stage | 23.56 0.7883 0.1931 | 15.92 0.5413 0.4427
        2view   w/o KL  | 21.62 0.7592 0.2185 | 15.41 0.5222 0.4527
        2view   Gen3R   | 27.05 0.8732 0.1352 | 18.59 0.6149 0.3416
        """,
    ),
    _table(
        4,
        True,
        "chamfer",
        "co3d wildrgbd tartanair",
        """
        1view   2-Stage | 1.6223 | 0.2330 | 3.7029
        1view   w/o KL  | 1.9620 | 0.3280 | 4.0395
        1view   Gen3R   | 1.1047 | 0.1992 | 2.7809
        2view   2-Stage | 1.3615 | 0.1623 | 2.6579
        2view   w/o KL  | 1.7144 | 0.2898 | 3.5508
        2view   Gen3R   | 0.9767 | 0.1426 | 1.9734
        """,
    ),
    _table(
        5,
        True,
        "auc_30",
        "re10k wildrgbd",
        """
        1view   Aether  | 0.6398 | 0.5375
        1view   WVD     | 0.6727 | 0.6780
        1view   2-Stage | 0.6832 | 0.6798
        1view   w/o KL  | 0.4100 | 0.4759
        1view   Gen3R   | 0.7443 | 0.8004
        2view   Aether  | 0.6220 | 0.5068
        2view   WVD     | 0.7249 | 0.7113
        2view   2-Stage | 0.7188 | 0.7211
        2view   w/o KL  | 0.4683 | 0.4947
        2view   Gen3R   | 0.7732 | 0.8098
        """,
    ),
    _table(
        6,
        True,
        "psnr ssim lpips i2v_subject i2v_background imaging_quality",
        "co3d wildrgbd",
        """
        1view   LVSM       | 14.08 0.5623 0.5698 0.9482 0.9581 0.3579 | 13.9483 0.5239 0.5195 0.9692 0.9713 0.4004
        1view   Gen3C      | 15.82 0.5666 0.5095 0.9134 0.9355 0.4335 | 14.60 0.5463 0.4513 0.9622 0.9646 0.4629
        1view   GF         | 10.25 0.3150 0.6761 0.7933 0.8193 0.5320 | 11.8944 0.4147 0.5940 0.9215 0.9214 0.5310
        1view   Aether     | 12.78 0.5106 0.6052 0.9229 0.9395 0.4411 | 11.87 0.4289 0.5973 0.9595 0.9614 0.4786
        1view   WVD        | 13.35 0.4733 0.5765 0.9339 0.9484 0.5355 | 12.95 0.4522 0.5362 0.9669 0.9671 0.5513
        1view   Gen3R      | 16.09 0.5754 0.4997 0.9535 0.9588 0.5383 | 14.73 0.5501 0.4398 0.9715 0.9716 0.5609
        2view   DepthSplat | 10.45 0.3262 0.6167 0.8314 0.8585 0.2992 | 16.22 0.5382 0.4518 0.9012 0.9067 0.3779
        2view   LVSM       | 17.87 0.5986 0.4534 0.9467 0.9519 0.4064 | 19.13 0.6789 0.3134 0.9747 0.9730 0.4555
        2view   Gen3C      | 17.16 0.5927 0.4776 0.9149 0.9361 0.4263 | 17.81 0.6307 0.3882 0.9636 0.9651 0.4634
        2view   GF         | 12.67 0.3855 0.5998 0.7645 0.7925 0.4969 | 13.51 0.3991 0.4609 0.8785 0.8852 0.5374
        2view   Aether     | 14.28 0.5405 0.5498 0.9322 0.9426 0.4647 | 13.79 0.4884 0.5161 0.9491 0.9512 0.4685
        2view   WVD        | 14.66 0.5101 0.5334 0.9246 0.9409 0.5306 | 16.27 0.5421 0.4098 0.9631 0.9646 0.5627
        2view   Gen3R      | 18.01 0.6085 0.4371 0.9547 0.9597 0.5405 | 18.88 0.6448 0.3256 0.9746 0.9755 0.5685
        """,
    ),
    _table(
        6,
        True,
        "psnr ssim lpips i2v_subject i2v_background imaging_quality",
        "tartanair",
        """
        1view   LVSM       | 14.44 0.5044 0.5210 0.9325 0.9540 0.3542
        1view   Gen3C      | 13.95 0.4731 0.5385 0.9142 0.9403 0.3713
        1view   GF         | 10.21 0.3249 0.6249 0.7447 0.7864 0.4379
        1view   Aether     | 12.88 0.4585 0.5645 0.9295 0.9480 0.4303
        1view   WVD        | 12.77 0.4513 0.5652 0.9271 0.9473 0.4571
        1view   Gen3R      | 15.04 0.5069 0.5073 0.9350 0.9546 0.4620
        2view   DepthSplat | 13.87 0.4585 0.5195 0.8073 0.8474 0.3301
        2view   LVSM       | 17.79 0.5685 0.4265 0.9415 0.9569 0.3628
        2view   Gen3C      | 15.24 0.5055 0.5318 0.9119 0.9376 0.3668
        2view   GF         | 12.06 0.3670 0.5666 0.7447 0.7946 0.4589
        2view   Aether     | 14.53 0.4989 0.5153 0.9294 0.9496 0.4267
        2view   WVD        | 14.22 0.4605 0.5266 0.9116 0.9371 0.4680
        2view   Gen3R      | 17.34 0.5581 0.4416 0.9385 0.9559 0.4748
        """,
    ),
    _table(
        7,
        False,
        "i2v_subject i2v_background aesthetic_quality imaging_quality motion_smoothness",
        "re10k dl3dv",
        """
        1view   Aether | 0.9743 0.9770 0.5118 0.5060 0.9885 | 0.9377 0.9501 0.4704 0.4872 0.9600
        1view   WVD    | 0.9815 0.9843 0.5125 0.5653 0.9895 | 0.9274 0.9412 0.4555 0.4916 0.9542
        1view   Gen3R  | 0.9879 0.9890 0.5291 0.5761 0.9929 | 0.9461 0.9561 0.4727 0.5187 0.9701
        2view   Aether | 0.9852 0.9843 0.5278 0.5187 0.9923 | 0.9485 0.9521 0.4846 0.5026 0.9685
        2view   WVD    | 0.9929 0.9923 0.5336 0.5973 0.9938 | 0.9403 0.9518 0.4760 0.5338 0.9685
        2view   Gen3R  | 0.9949 0.9947 0.5369 0.6009 0.9947 | 0.9549 0.9576 0.4881 0.5357 0.9719
        """,
    ),
    _table(
        8,
        False,
        "auc_30",
        "re10k wildrgbd",
        """
        allview Aether | 0.7291 | 0.7303
        allview VGGT   | 0.8387 | 0.8406
        allview Gen3R  | 0.8265 | 0.8391
        """,
    ),
    _table(
        9,
        False,
        "psnr ssim lpips",
        "re10k dl3dv",
        """
        allview VGGT + RGB head | 23.3927 0.8346 0.2341 | 22.6958 0.7557 0.2910
        allview Wan RGB VAE     | 37.5770 0.9819 0.0288 | 32.7673 0.9057 0.1031
        """,
    ),
)
