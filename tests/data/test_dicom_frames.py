"""One DICOM file of many frames: read as a volume at its place, refused where that is unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from sinet.data import open_dataset
from sinet.data.image import ImageError
from sinet.data.inspection import inspect_dataset
from sinet.data.patches import Patches
from sinet.data.volumes import VolumeInput, is_volume, read_volume

from .test_dicom import AFFINE, COLUMNS, ROWS, SLICES

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
STORED = [3, 0, 7, 1, 9, 2, 8, 4, 6, 5]
"""The slices in the order in which the file has them."""


def part(**values: object) -> Dataset:
    held = Dataset()
    for name, value in values.items():
        setattr(held, name, value)
    return held


def content(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and stored values (X, Y, Z)."""
    rng = np.random.default_rng(seed)
    label = np.zeros((COLUMNS, ROWS, SLICES), np.uint8)
    label[2:8, 4:12, 2:7] = 1
    return label, (label * 300.0 + rng.integers(0, 100, label.shape)).astype("<u2")


def enhanced(path: Path, seed: int = 0, change: Callable[[FileDataset], object] = id) -> np.ndarray:
    """Write slices of 16 x 12 pixels of 1.5 x 2 mm, 3 mm apart; gives their labels (X, Y, Z)."""
    label, values = content(seed)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ENHANCED_MR, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = ENHANCED_MR, meta.MediaStorageSOPInstanceUID
    file.Modality, file.NumberOfFrames = "MR", SLICES
    file.Rows, file.Columns = ROWS, COLUMNS
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, 0
    file.PixelData = np.stack([values[:, :, k].T for k in STORED]).tobytes()
    ways = part(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    measures = part(PixelSpacing=[1.5, 2.0], SliceThickness=3)
    file.SharedFunctionalGroupsSequence = [
        part(PlaneOrientationSequence=[ways], PixelMeasuresSequence=[measures])
    ]
    file.PerFrameFunctionalGroupsSequence = [
        part(
            PlanePositionSequence=[part(ImagePositionPatient=[10, 20, 30 + 3 * k])],
            # slope and intercept differ from frame to frame, as those of PET do
            PixelValueTransformationSequence=[part(RescaleSlope=1 + k, RescaleIntercept=-k)],
        )
        for k in STORED
    ]
    change(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return label


def expected(seed: int = 0) -> np.ndarray:
    """What the stored values mean."""
    return np.asarray(content(seed)[1] * (1.0 + np.arange(SLICES)) - np.arange(SLICES))


@pytest.mark.parametrize("name", ["scan.dcm", "scan/IM0001"])
def test_a_file_of_frames_is_a_volume_with_its_place(tmp_path: Path, name: str) -> None:
    enhanced(tmp_path / name)
    path = tmp_path / name.split("/")[0]  # without an ending only its folder is known
    assert is_volume(path)
    volume = read_volume(path)
    assert volume.shape == (1, COLUMNS, ROWS, SLICES)
    assert np.array_equal(volume.array[0], expected())
    assert np.allclose(volume.affine, AFFINE)
    assert volume.spacing == (2.0, 1.5, 3.0)


def test_a_tilted_stack_lies_where_its_frames_say(tmp_path: Path) -> None:
    turn = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])

    def tilt(file: FileDataset) -> None:
        ways = file.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        ways.ImageOrientationPatient = [*turn[:, 0], *turn[:, 1]]
        for k, frame in zip(STORED, file.PerFrameFunctionalGroupsSequence, strict=True):
            place = np.array([10, 20, 30]) - 3 * k * turn[:, 2]  # the other way round
            frame.PlanePositionSequence[0].ImagePositionPatient = place.tolist()

    enhanced(tmp_path / "scan.dcm", change=tilt)
    volume = read_volume(tmp_path / "scan.dcm")
    assert np.array_equal(volume.array[0], expected()[:, :, ::-1])
    for voxel, mm in (
        ((0, 0, SLICES - 1), (10, 20, 30)),
        ((1, 0, SLICES - 1), np.array([10, 20, 30]) + 2 * turn[:, 0]),
        ((0, 2, 0), np.array([10, 20, 30]) + 3 * turn[:, 1] - 27 * turn[:, 2]),
    ):
        assert np.allclose((volume.affine @ [*voxel, 1])[:3], np.array(mm) * [-1, -1, 1])


@pytest.mark.parametrize("pattern", ["case{}.dcm", "case{}/all.dcm"])
def test_a_data_set_of_such_files(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "labels").mkdir()
    for i in range(4):
        label = enhanced(tmp_path / "images" / pattern.format(i), i)
        nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / f"labels/case{i}.nii.gz")
    found = inspect_dataset(tmp_path)
    assert (found.format, found.channels, found.unreadable) == ("volume folders", 1, [])
    assert found.modes == {"DICOM": 4}
    assert sum(found.samples.values()) == 4
    assert (found.data.train.targets[0].read() == label).all()
    reader = VolumeInput(Patches(8, 1, (), (), sides=(8, 8, 8)))
    named = [path.name for path in reader.inside(tmp_path / "images")]
    assert named == [pattern.format(i).split("/")[0] for i in range(4)]
    assert open_dataset(tmp_path).train.content(0)


def test_other_files_are_no_volumes(tmp_path: Path) -> None:
    def one(file: FileDataset) -> None:
        file.NumberOfFrames = 1
        file.PixelData = file.PixelData[: 2 * ROWS * COLUMNS]

    enhanced(tmp_path / "one.dcm", change=one)
    (tmp_path / "bad.dcm").write_bytes(bytes(40))
    assert not is_volume(tmp_path / "one.dcm")
    assert not is_volume(tmp_path / "bad.dcm")


def no_place(file: FileDataset) -> None:
    del file.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence


def no_way(file: FileDataset) -> None:
    del file.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence


def no_groups(file: FileDataset) -> None:
    del file.SharedFunctionalGroupsSequence
    del file.PerFrameFunctionalGroupsSequence


def no_spacing(file: FileDataset) -> None:
    del file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing


def other_way(file: FileDataset) -> None:
    ways = part(ImageOrientationPatient=[1, 0, 0, 0, 0, 1])
    file.PerFrameFunctionalGroupsSequence[2].PlaneOrientationSequence = [ways]


def other_spacing(file: FileDataset) -> None:
    measures = part(PixelSpacing=[1.5, 2.1])
    file.PerFrameFunctionalGroupsSequence[2].PixelMeasuresSequence = [measures]


def places(change: Callable[[int], int]) -> Callable[[FileDataset], None]:
    def move(file: FileDataset) -> None:
        for k, frame in zip(STORED, file.PerFrameFunctionalGroupsSequence, strict=True):
            frame.PlanePositionSequence[0].ImagePositionPatient = [10, 20, 30 + 3 * change(k)]

    return move


def segments(file: FileDataset) -> None:
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = SEGMENTATION


def cut(file: FileDataset) -> None:
    file.PixelData = file.PixelData[:-100]


def colours(file: FileDataset) -> None:
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "RGB", 0
    file.PixelData = file.PixelData * 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (no_place, "frame 5 of scan.dcm has no ImagePositionPatient, so where its voxels lie is"),
        (no_way, "frame 1 of scan.dcm has no ImageOrientationPatient"),
        (no_groups, "has no ImagePositionPatient, so where its voxels lie is unknown; export the"),
        (no_spacing, "frame 1 of scan.dcm has no PixelSpacing"),
        (other_way, "frames 1 and 3 of scan.dcm differ in ImageOrientationPatient"),
        (other_spacing, "frames 1 and 3 of scan.dcm differ in PixelSpacing"),
        (places(lambda k: k // 2), "frames 2 and 4 of scan.dcm lie at the same place: several"),
        (places(lambda k: 0), "lie at the same place"),
        (places(lambda k: k + (k > 4)), "a slice is missing between frame 8 and frame 10"),
        (segments, "scan.dcm is a DICOM segmentation; convert it to a NIfTI label map"),
        (cut, "pixel data"),
        (colours, "4 axes; frames of grey pixels expected"),
    ],
)
def test_frames_that_are_no_volume(
    tmp_path: Path, change: Callable[[FileDataset], object], says: str
) -> None:
    enhanced(tmp_path / "scan.dcm", change=change)
    with pytest.raises(ImageError) as raised:
        read_volume(tmp_path / "scan.dcm")
    assert says in str(raised.value)


def test_several_files_in_the_folder_of_one_series(tmp_path: Path) -> None:
    for i in range(2):
        enhanced(tmp_path / f"{i}.dcm", i)
    assert not is_volume(tmp_path)  # but a folder of volumes
    with pytest.raises(ImageError, match=r"0\.dcm holds many frames; a folder for each"):
        read_volume(tmp_path)
