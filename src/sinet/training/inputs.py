"""How images are normalised: as the pretrained weights expect it, or as the data have it."""

from __future__ import annotations

import numpy as np

from sinet.data.dataset import ImageDataset
from sinet.data.preprocess import Preprocess
from sinet.models.spec import ModelSpec
from sinet.models.weights import pretrained_stats

Stats = tuple[tuple[float, ...], tuple[float, ...]]


def preprocess_for(spec: ModelSpec, data: ImageDataset, stats: Stats | None = None) -> Preprocess:
    """The preprocessing with which this network learns from these data.

    Args:
        spec: the network; with pretrained weights their own mean and deviation are taken.
        data: the images; their number of channels is kept.
        stats: `pixel_stats(data)`, if it is at hand.
    """
    mean, std = input_stats(spec, data, stats)
    return Preprocess(spec.size, data.channels, mean, std)


def input_stats(spec: ModelSpec, data: ImageDataset, stats: Stats | None = None) -> Stats:
    """Mean and deviation for this network: its pretrained weights' own, else those of the data."""
    if not spec.weights:
        return stats or pixel_stats(data)
    mean, std = pretrained_stats(spec.backbone)
    if data.channels == 1:
        return (sum(mean) / len(mean),), (sum(std) / len(std),)
    return tuple(mean), tuple(std)


def pixel_stats(data: ImageDataset, sample: int = 512) -> Stats:
    """Mean and standard deviation per channel (0..1 scale) of a sample of training images."""
    chosen = np.unique(np.linspace(0, len(data.train) - 1, sample).astype(int))
    pixels = [data.train.image(int(i)).reshape(-1, data.channels) / 255 for i in chosen]
    mean = np.stack([p.mean(0) for p in pixels]).mean(0)
    squares = np.stack([(p**2).mean(0) for p in pixels]).mean(0)
    deviation = np.sqrt(np.maximum(squares - mean**2, 1e-4))
    return tuple(map(float, mean.round(4))), tuple(map(float, deviation.round(4)))
