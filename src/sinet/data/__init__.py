"""Data: any common format on disk -> one typed data set, inspected, cached and augmented."""

from __future__ import annotations

from sinet.data.cache import EvalImages as EvalImages
from sinet.data.cache import ImageCache as ImageCache
from sinet.data.dataset import ImageDataset as ImageDataset
from sinet.data.dataset import Split as Split
from sinet.data.dataset import open_dataset as open_dataset
from sinet.data.image import ImageError as ImageError
from sinet.data.image import read_image as read_image
from sinet.data.inspection import Inspection as Inspection
from sinet.data.inspection import inspect_dataset as inspect_dataset
from sinet.data.preprocess import Preprocess as Preprocess
from sinet.data.preprocess import PreprocessModule as PreprocessModule
from sinet.data.sheet import draw_sheet as draw_sheet
from sinet.data.transforms import BatchAugment as BatchAugment
