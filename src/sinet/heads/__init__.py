"""Necks and decoders over a pyramid of features."""

from sinet.heads.pyramid import SiNetPyramid as SiNetPyramid
