"""Operators that more than one family uses."""

from sinet.layers.attention import SmallAttention as SmallAttention
from sinet.layers.conv import ConvNorm as ConvNorm
