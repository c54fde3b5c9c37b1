"""Necks and decoders over a pyramid of features, some in a registry by name."""

from sinet.heads._necks import create_neck as create_neck
from sinet.heads._necks import list_necks as list_necks
from sinet.heads._necks import register_neck as register_neck
from sinet.heads.catnet import SCP as SCP
from sinet.heads.catnet import DenseFPN as DenseFPN
from sinet.heads.catnet import HRoIE as HRoIE
from sinet.heads.detection import PyramidBackbone as PyramidBackbone
from sinet.heads.digits import DigitsHead as DigitsHead
from sinet.heads.fpn import FPN as FPN
from sinet.heads.light_detect import LightDetector as LightDetector
from sinet.heads.nested import NestedPyramid as NestedPyramid
from sinet.heads.pyramid import SiNetPyramid as SiNetPyramid
from sinet.heads.rcnet import CSN as CSN
from sinet.heads.rcnet import RCFPN as RCFPN
from sinet.heads.rcnet import RevFP as RevFP
from sinet.heads.segment import PyramidSegmenter as PyramidSegmenter
from sinet.heads.torchvision_detect import OneStage as OneStage
from sinet.heads.two_stage import TwoStage as TwoStage
from sinet.heads.video import VideoAttention as VideoAttention
from sinet.heads.video import VideoConv21d as VideoConv21d
