"""Operators that more than one family uses, or that `replace` puts into any network.

None of them may import timm: that registers our models, which need these operators.
"""

from sinet.layers.at_conv import ATConv as ATConv
from sinet.layers.attention import SmallAttention as SmallAttention
from sinet.layers.conv import ConvNorm as ConvNorm
from sinet.layers.dcls import DCLS1d as DCLS1d
from sinet.layers.dcls import DCLS2d as DCLS2d
from sinet.layers.dcls import DCLS3d as DCLS3d
from sinet.layers.fd_conv import FDConv2d as FDConv2d
from sinet.layers.ffnified_attention import FFNifiedAttention as FFNifiedAttention
from sinet.layers.gn_conv import GnConv as GnConv
from sinet.layers.halo_attention import HaloAttention as HaloAttention
from sinet.layers.ibn import IBN as IBN
from sinet.layers.ls_conv import LSConv as LSConv
from sinet.layers.replace import replace as replace
