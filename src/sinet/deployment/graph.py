"""The nodes around the network: uint8 images of any size before it, a task's answers behind it.

What comes before is written in ONNX's own text form, which reads like the graph that it is.
"""

from __future__ import annotations

import onnx
from onnx import compose, parser

from sinet.data.preprocess import GREY, Preprocess

_PREPROCESS = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
preprocess (uint8[batch, height, width, {channels}] images)
    => (float[batch, {channels}, {sides}] {output})
<
  double short_side = {{{short_side}}},
  double half = {{0.5}},
  int64 least = {{{least}}},
  int64 two = {{2}},
  int64 multiple = {{{multiple}}},
  int64[2] spatial = {{2, 3}},
  int64[2] start = {{0, 0}},
  int64[2] box = {{{high}, {wide}}},
  double[2] box_sides = {{{high}.0, {wide}.0}},
  int64[4] box_shape = {{0, {channels}, {high}, {wide}}},
  float grey = {{{grey}}},
  float[1, {channels}, 1, 1] scale = {{{scale}}},
  float[1, {channels}, 1, 1] shift = {{{shift}}}
>
{{
  planes = Transpose <perm = [0, 3, 1, 2]> (images)
  values = Cast <to = 1> (planes)
  {fit}
  fixed = {fixed}

  scaled_pixels = Mul (fixed, scale)
  {output} = Add (scaled_pixels, shift)
}}
"""

# In double precision, as Preprocess.resized does it: floor(side * ratio + 0.5).
_SCALED = """
  shape = Shape <start = 1, end = 3> (images)
  sides = Cast <to = 11> (shape)
  {ratio}
  scaled = Mul (sides, ratio)
  nudged = Add (scaled, half)
  rounded = Floor (nudged)
  whole = Cast <to = 7> (rounded)
  target = Max (whole, least)"""
_RESIZE = """
  resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel", antialias = 1,
    exclude_outside = 1, axes = [2, 3]> (values, , , target)"""
_FIT = {
    "crop": _SCALED.format(
        ratio="shorter = ReduceMin <keepdims = 0> (sides)\n  ratio = Div (short_side, shorter)"
    )
    + _RESIZE
    + """
  spare = Sub (target, box)
  first = Div (spare, two)
  last = Add (first, box)
  cut = Slice (resized, first, last, spatial)""",
    "stretch": "target = Identity (box)" + _RESIZE + "\n  cut = Identity (resized)",
    "pad": _SCALED.format(
        ratio="ratios = Div (box_sides, sides)\n  ratio = ReduceMin <keepdims = 0> (ratios)"
    )
    + _RESIZE
    + """
  spare = Sub (box, target)
  pads = Concat <axis = 0> (start, spare)
  cut = Pad (resized, pads, grey, spatial)""",
    "none": "cut = Identity (values)",
}
# For `none` with multiples: how much is missing is -side modulo the multiple.
_GROWN = """
  shape = Shape <start = 1, end = 3> (images)
  short = Neg (shape)
  spare = Mod (short, multiple)
  pads = Concat <axis = 0> (start, spare)
  cut = Pad <mode = "edge"> (values, pads, , spatial)"""
# Costs nothing and tells engines that the size is fixed.
_FIXED, _FREE = "Reshape (cut, box_shape)", "Identity (cut)"


def preprocess_graph(
    preprocess: Preprocess, *, output: str, opset: int, ir_version: int
) -> onnx.ModelProto:
    """`images` uint8 (N, H, W, C) of any size -> `output` float32 (N, C, *preprocess.shape).

    With fit "none" the output has any size too.

    `exclude_outside` makes ONNX renormalise the antialiasing filter at the border, as Pillow and
    torch do; without it, pixels differ by up to 13 of 255. An image that already has the network's
    size is merely copied by Resize and Slice (0.05 ms at 224 px), so no branch around them.
    """
    divisors = [255.0 * std for std in preprocess.std]
    high, wide = preprocess.shape
    free = preprocess.fit == "none"
    return parser.parse_model(
        _PREPROCESS.format(
            ir_version=ir_version,
            opset=opset,
            channels=preprocess.channels,
            high=high,
            wide=wide,
            sides="high, wide" if free else f"{high}, {wide}",
            output=output,
            fit=_GROWN if preprocess.multiple > 1 else _FIT[preprocess.fit],
            fixed=_FREE if free else _FIXED,
            multiple=preprocess.multiple,
            grey=GREY,
            least=preprocess.least,
            short_side=float(preprocess.short_side),
            scale=_numbers([1 / divisor for divisor in divisors]),
            shift=_numbers([-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)]),
        )
    )


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.10e}" for value in values)


def append_tail(model: onnx.ModelProto, tail: onnx.ModelProto) -> None:
    """Put a graph behind another's outputs, in place; both keep theirs.

    Its inputs are `images` and outputs of `model`, by name; every other name inside it gets the
    prefix `tail/`.
    """
    tail = compose.add_prefix(tail, "tail/", rename_inputs=False, rename_outputs=False)
    known = {entry.name for entry in (*model.graph.input, *model.graph.output)}
    given = {entry.name for entry in tail.graph.input}
    if not given <= known:
        raise ValueError(f"the tail wants {sorted(given - known)}, which the model does not give")
    model.graph.node.extend(tail.graph.node)
    model.graph.initializer.extend(tail.graph.initializer)
    model.graph.output.extend(tail.graph.output)
