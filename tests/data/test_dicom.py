"""DICOM series: read as volumes, refused where they are not one whole series."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime as ort
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from torch import nn

from sinet.data import open_dataset
from sinet.data.image import ImageError
from sinet.data.inspection import inspect_dataset
from sinet.data.patches import Patches
from sinet.data.volume_files import read_volume
from sinet.deployment.export import assemble, export_network
from sinet.deployment.metadata import Metadata
from sinet.deployment.predictor import Predictor
from sinet.errors import DataError

MR = "1.2.840.10008.5.1.4.1.1.4"
ROWS, COLUMNS, SLICES = 16, 12, 10
# DICOM counts towards left and posterior, NIfTI towards right and anterior
AFFINE = np.array([[-2.0, 0, 0, -10], [0, -1.5, 0, -20], [0, 0, 3.0, 30], [0, 0, 0, 1]])


def write_slice(path: Path, k: int, pixels: np.ndarray, uid: str) -> None:
    """Slice `k` of a series: uint16 (rows, columns) at 3 k mm."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = MR, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID = file.SeriesInstanceUID = uid
    file.Modality, file.InstanceNumber = "MR", k + 1
    file.Rows, file.Columns = pixels.shape
    file.PixelSpacing, file.SliceThickness = [1.5, 2.0], 3
    file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    file.ImagePositionPatient = [10, 20, 30 + 3 * k]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, 0
    file.PixelData = pixels.astype("<u2").tobytes()
    file.save_as(path, enforce_file_format=True)


def series(folder: Path, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A folder of slices, named from the last to the first; values and labels (X, Y, Z)."""
    rng = np.random.default_rng(seed)
    label = np.zeros((COLUMNS, ROWS, SLICES), np.uint8)
    label[2:8, 4:12, 2:7] = 1
    values = (label * 300.0 + rng.integers(0, 100, label.shape)).astype(np.uint16)
    folder.mkdir(parents=True)
    uid = generate_uid()
    for k in range(SLICES):
        write_slice(folder / f"{SLICES - 1 - k}.dcm", k, values[:, :, k].T, uid)
    return values, label


def test_a_series_is_a_volume_with_its_place(tmp_path: Path) -> None:
    values, _ = series(tmp_path / "scan")
    volume = read_volume(tmp_path / "scan")
    assert (volume.array[0] == values).all()
    assert np.allclose(volume.affine, AFFINE)
    assert volume.spacing == (2.0, 1.5, 3.0)


def test_a_data_set_of_series_is_read(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for i in range(4):
        _, label = series(tmp_path / "images" / f"case{i}", i)
        nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / f"labels/case{i}.nii.gz")
    data = open_dataset(tmp_path)
    assert data.format == "volume folders"
    assert (len(data.train) + len(data.val), data.channels) == (4, 1)
    assert data.train.form(0) == "DICOM"
    assert (data.train.targets[0].read() == label).all()
    assert inspect_dataset(tmp_path).unreadable == []
    (tmp_path / "images/case1/4.dcm").unlink()
    with pytest.raises(DataError, match="images/case1: a slice is missing between") as raised:
        open_dataset(tmp_path)
    assert "replace damaged files" in str(raised.value)


def damage(folder: Path) -> None:
    (folder / "3.dcm").write_bytes(bytes(40))


def lose_two(folder: Path) -> None:
    (folder / "3.dcm").unlink()
    (folder / "4.dcm").unlink()


def keep_three_of_four(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in ("9.dcm", "8.dcm", "6.dcm"):
            path.unlink()


def keep_one(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "9.dcm":
            path.unlink()


def hide_number(folder: Path) -> None:
    from pydicom import dcmread

    file = dcmread(folder / "3.dcm")
    del file.InstanceNumber
    file.save_as(folder / "3.dcm")


def cut_pixels(folder: Path) -> None:
    whole = (folder / "3.dcm").read_bytes()
    (folder / "3.dcm").write_bytes(whole[:-100])


def read_uid(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path).SeriesInstanceUID)


def add_twice(folder: Path) -> None:
    write_slice(folder / "again.dcm", 3, np.zeros((ROWS, COLUMNS)), read_uid(folder / "3.dcm"))


def add_stranger(folder: Path) -> None:
    write_slice(folder / "scout.dcm", 3, np.zeros((ROWS, COLUMNS)), generate_uid())


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (damage, "3.dcm is no DICOM file, or a damaged one"),
        (
            lose_two,
            "2 slices are missing between 5.dcm and 2.dcm, which lie 9 mm apart, others 3 mm",
        ),
        (keep_three_of_four, "a slice is missing between 8.dcm and 6.dcm"),
        (keep_one, "9.dcm alone is no series of slices; convert it to NIfTI"),
        (hide_number, "3.dcm has no instance number"),
        (cut_pixels, "pixel data"),
        (add_twice, "follow each other but lie 0 mm apart"),
        (add_stranger, "slices of 2 series, such as 0.dcm and scout.dcm; a folder for each"),
    ],
)
def test_what_is_no_whole_series_is_named(tmp_path: Path, break_it: object, says: str) -> None:
    folder = tmp_path / "scan"
    series(folder)
    break_it(folder)  # type: ignore[operator]
    with pytest.raises(ImageError) as raised:
        read_volume(folder)
    assert str(folder) in str(raised.value)
    assert says in str(raised.value)


def test_a_file_answers_for_a_series(tmp_path: Path) -> None:
    series(tmp_path / "scans/good")
    series(tmp_path / "scans/gap")
    (tmp_path / "scans/gap/5.dcm").unlink()
    preprocess = Patches(8, 1, (), (), sides=(8, 8, 8))
    network = nn.Conv3d(1, 2, 3, 1, 1).eval()
    body = export_network(network, preprocess.shape, 1, tmp_path / "body.onnx")
    about = Metadata(["background", "organ"], [0, 1], preprocess, "net@8", True, task="volume")
    file = assemble(body, preprocess, about, tmp_path / "model.onnx")
    assert ort.InferenceSession(str(file)).get_inputs()[0].shape[1:] == [1, 8, 8, 8]
    predictor = Predictor(file)
    found = predictor.signature.input.inside(tmp_path / "scans")
    assert [path.name for path in found] == ["gap", "good"]
    bad, good = predictor.predict(found)
    assert "a slice is missing" in str(bad.error)
    assert good.classes.shape == (COLUMNS, ROWS, SLICES)  # type: ignore[attr-defined]
    assert np.allclose(nib.load(good.save(tmp_path / "out")).affine, AFFINE)
