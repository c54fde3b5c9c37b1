"""The nodes around the network: uint8 images of any size in, logits and probabilities out.

Written in ONNX's own text form, which reads like the graph that it is.
"""

from __future__ import annotations

import onnx
from onnx import helper, parser

from sinet.data.preprocess import Preprocess

_PREPROCESS = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
preprocess (uint8[batch, height, width, {channels}] images)
    => (float[batch, {channels}, {size}, {size}] {output})
<
  double short_side = {{{short_side}}},
  double half = {{0.5}},
  int64 two = {{2}},
  int64[2] spatial = {{2, 3}},
  int64[2] crop_size = {{{size}, {size}}},
  int64[4] crop_shape = {{0, {channels}, {size}, {size}}},
  float[1, {channels}, 1, 1] scale = {{{scale}}},
  float[1, {channels}, 1, 1] shift = {{{shift}}}
>
{{
  planes = Transpose <perm = [0, 3, 1, 2]> (images)
  values = Cast <to = 1> (planes)

  # In double precision, as Preprocess.resized does it: floor(side * (short / min) + 0.5).
  shape = Shape <start = 1, end = 3> (images)
  sides = Cast <to = 11> (shape)
  shorter = ReduceMin <keepdims = 0> (sides)
  ratio = Div (short_side, shorter)
  scaled = Mul (sides, ratio)
  nudged = Add (scaled, half)
  rounded = Floor (nudged)
  target = Cast <to = 7> (rounded)
  resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel", antialias = 1,
    exclude_outside = 1, axes = [2, 3]> (values, , , target)

  spare = Sub (target, crop_size)
  first = Div (spare, two)
  last = Add (first, crop_size)
  cut = Slice (resized, first, last, spatial)
  crop = Reshape (cut, crop_shape)  # costs nothing and tells engines that the size is fixed

  scaled_pixels = Mul (crop, scale)
  {output} = Add (scaled_pixels, shift)
}}
"""


def preprocess_graph(
    preprocess: Preprocess, *, output: str, opset: int, ir_version: int
) -> onnx.ModelProto:
    """`images` uint8 (N, H, W, C) of any size -> `output` float32 (N, C, size, size).

    `exclude_outside` makes ONNX renormalise the antialiasing filter at the border, as Pillow and
    torch do; without it, pixels differ by up to 13 of 255. An image that already has the network's
    size is merely copied by Resize and Slice (0.05 ms at 224 px), so no branch around them.
    """
    divisors = [255.0 * std for std in preprocess.std]
    return parser.parse_model(
        _PREPROCESS.format(
            ir_version=ir_version,
            opset=opset,
            channels=preprocess.channels,
            size=preprocess.size,
            output=output,
            short_side=float(preprocess.short_side),
            scale=_numbers([1 / divisor for divisor in divisors]),
            shift=_numbers([-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)]),
        )
    )


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.10e}" for value in values)


def append_probabilities(model: onnx.ModelProto, multilabel: bool) -> None:
    """Add the output `probabilities` behind `logits`, in place."""
    if multilabel:
        node = helper.make_node("Sigmoid", ["logits"], ["probabilities"], "probabilities")
    else:
        node = helper.make_node("Softmax", ["logits"], ["probabilities"], "probabilities", axis=-1)
    model.graph.node.append(node)
    output = onnx.ValueInfoProto()
    output.CopyFrom(next(out for out in model.graph.output if out.name == "logits"))
    output.name = "probabilities"
    model.graph.output.append(output)
