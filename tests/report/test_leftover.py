import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from src.report.page.leftover import (
    Inside,
    read_curve,
    read_features,
    read_inside,
    read_picture,
)

INSIDE: dict[str, Any] = {
    "classes": {
        "names": ["a", "b"],
        "substitution": [0.25, 0.75],
        "original": [0.5, 0.5],
        "divergence": 0.13,
    },
    "fid": {"extractor": "teacher", "value": 12.5, "images": 100, "originals": 90},
    "inception_fid": {"extractor": "Inception", "value": 99.5, "images": 50, "originals": 40},
    "agreement": {"overall": 0.9, "per_class": [0.8, 1.0]},
    "prototypes": {"prior": [0.5, 0.5], "classes": [[1, 0], [0, 1]], "attention": [0.1, 0.9]},
}


def inside_of(folder: Path, content: Any) -> Inside:
    (folder / "inside.json").write_text(json.dumps(content))
    return read_inside(folder)


def test_inside_is_read_part_by_part(tmp_path: Path) -> None:
    found = inside_of(tmp_path, INSIDE)
    assert found.fid == ("teacher", 12.5, 100, 90)
    assert found.inception_fid == ("Inception", 99.5, 50, 40)
    assert found.classes == (["a", "b"], [0.25, 0.75], [0.5, 0.5], 0.13)
    assert found.agreement == (0.9, [0.8, 1.0])
    assert found.prototypes is not None
    assert found.prototypes.classes.shape == (2, 2)
    assert inside_of(tmp_path, {"fid": INSIDE["fid"]}) == Inside(fid=found.fid)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("classes", {"substitution": [1.0]}),
        ("classes", {"divergence": float("nan")}),
        ("fid", {"value": None}),
        ("fid", {"images": "many"}),
        ("inception_fid", {"value": None}),
        ("agreement", {"per_class": []}),
        ("prototypes", {"classes": [[1, 0], [0]]}),
        ("prototypes", {"classes": [[1, 0]]}),
        ("prototypes", {"attention": [1.0]}),
    ],
    ids=str,
)
def test_a_part_of_another_form_is_absent(tmp_path: Path, part: str, change: Any) -> None:
    found = inside_of(tmp_path, INSIDE | {part: INSIDE[part] | change})
    assert [name for name, value in zip(Inside._fields, found, strict=True) if value is None] == [
        part
    ]


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 10_000, "\xff"], ids=["cut", "list", "deep", ""]
)
def test_what_is_no_record_is_absent(tmp_path: Path, text: str) -> None:
    assert read_inside(tmp_path) == Inside()
    (tmp_path / "inside.json").write_bytes(text.encode("latin-1"))
    assert read_inside(tmp_path) == Inside()


def test_a_class_without_images_and_an_empty_cluster_leave_the_others(tmp_path: Path) -> None:
    found = inside_of(
        tmp_path,
        INSIDE
        | {"agreement": {"overall": 0.9, "per_class": [0.8, None]}}
        | {"prototypes": {"prior": [0.5, 0.5], "classes": [None, [0, 1]]}},
    )
    assert found.agreement is not None
    assert found.prototypes is not None
    np.testing.assert_equal(found.agreement.per_class, [0.8, np.nan])
    np.testing.assert_equal(found.prototypes.classes, [[np.nan, np.nan], [0, 1]])
    nothing = {"agreement": {"overall": 0.9, "per_class": [None]}}
    assert inside_of(tmp_path, nothing) == Inside()


def test_a_curve_goes_on_over_attempts(tmp_path: Path) -> None:
    for name, lines in {
        "stage_b": "0,5,10.0,\n0,5,,1.0\n1,9,20.0,\n1,9,,2.0\n",
        "stage_b.1": "0,3,25.0,\n0,3,,2.0\n1,5,30.0,\n1,5,,3.0\n2,7,,4.0\n",
        "stage_b.10": "0,1,40.0,\n0,1,,4.0\n",
        "stage_b.2": "0,1,35.0,\n0,1,,4.0\n",
    }.items():
        (tmp_path / "metrics" / name).mkdir(parents=True)
        path = tmp_path / "metrics" / name / "metrics.csv"
        path.write_text("epoch,step,student/acc,student/epoch\n" + lines)
    assert read_curve(tmp_path) == {1.0: 10.0, 2.0: 25.0, 3.0: 30.0, 4.0: 40.0}


def test_no_metrics_or_damaged_ones_are_no_curve(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == {}
    (tmp_path / "metrics/stage_b").mkdir(parents=True)
    path = tmp_path / "metrics/stage_b/metrics.csv"
    for damaged in (b"\xff\xfe", b"step,student/acc,student/epoch\n1,x,y\n2,nan,1\n"):
        path.write_bytes(damaged)
        assert read_curve(tmp_path) == {}


def test_features_are_read_where_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    assert read_features(tmp_path) is None
    save_file({"features": np.eye(3, dtype=np.float32), "labels": np.arange(3)}, path)
    found = read_features(tmp_path)
    assert found is not None
    assert np.array_equal(found[0], np.eye(3))
    assert found[1].tolist() == [0, 1, 2]
    save_file({"features": np.eye(3), "labels": np.arange(2)}, path)
    assert read_features(tmp_path) is None
    path.write_bytes(b"no tensors")
    assert read_features(tmp_path) is None


def test_a_picture_is_small_and_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    assert read_picture(path) is None
    path.write_bytes(b"no picture")
    assert read_picture(path) is None
    Image.new("RGB", (1600, 400), (200, 30, 30)).save(path)
    found = read_picture(path)
    assert found is not None
    uri, width, height = found
    assert (width, height) == (640, 160)
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        red, green, blue = picture.getpixel((320, 80))  # type: ignore[misc]
    assert (red, green, blue) == pytest.approx((200, 30, 30), abs=4)
    path.write_bytes(path.read_bytes()[:-60])
    assert read_picture(path) is None
