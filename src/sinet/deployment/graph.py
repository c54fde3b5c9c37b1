"""The nodes around the network: uint8 images of any size before it, a task's answers behind it.

What comes before is written in ONNX's own text form, which reads like the graph that it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import compose, helper, parser

from sinet.data.preprocess import GREY, Preprocess

_PREPROCESS = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
preprocess (uint8[{given}, height, width, {channels}] images)
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
  int64[1] every = {{-1}},
  int64[4] clip_shape = {{-1, {channels}, {high}, {wide}}},
  float grey = {{{grey}}},
  float[1, {channels}, 1, 1] scale = {{{scale}}},
  float[1, {channels}, 1, 1] shift = {{{shift}}}
>
{{
  {enter}
  values = Cast <to = 1> (planes)
  {fit}
  fixed = {fixed}

  scaled_pixels = Mul (fixed, scale)
  {leave}
}}
"""
_PICTURES = (
    "planes = Transpose <perm = [0, 3, 1, 2]> (images)",
    "{output} = Add (scaled_pixels, shift)",
)
# The frames of clips are pictures one by one, and clips again at the end.
_CLIPS = (
    """
  frame = Shape <start = 2> (images)
  frames_shape = Concat <axis = 0> (every, frame)
  frames = Reshape (images, frames_shape)
  planes = Transpose <perm = [0, 3, 1, 2]> (frames)""",
    """
  ready = Add (scaled_pixels, shift)
  count = Shape <start = 0, end = 1> (images)
  clips_shape = Concat <axis = 0> (count, clip_shape)
  clips = Reshape (ready, clips_shape)
  {output} = Transpose <perm = [0, 2, 1, 3, 4]> (clips)""",
)

# In double precision, as Preprocess.resized does it: floor(side * ratio + 0.5).
_SCALED = """
  shape = Shape <start = 2, end = 4> (values)
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
  shape = Shape <start = 2, end = 4> (values)
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

    With fit "none" the output has any size too. Clips are uint8 (N, T, H, W, C) and become
    float32 (N, C, T, height, width); their number of frames T is stated, but nothing depends on it.

    `exclude_outside` makes ONNX renormalise the antialiasing filter at the border, as Pillow and
    torch do; without it, pixels differ by up to 13 of 255. An image that already has the network's
    size is merely copied by Resize and Slice (0.05 ms at 224 px), so no branch around them.
    """
    divisors = [255.0 * std for std in preprocess.std]
    high, wide = preprocess.still.shape
    frames = preprocess.shape[:-2]  # of clips
    free = preprocess.fit == "none"
    enter, leave = _CLIPS if frames else _PICTURES
    made = parser.parse_model(
        _PREPROCESS.format(
            ir_version=ir_version,
            opset=opset,
            channels=preprocess.channels,
            high=high,
            wide=wide,
            given=", ".join(["batch", *map(str, frames)]),
            enter=enter,
            leave=leave.format(output=output),
            sides="high, wide" if free else ", ".join(map(str, preprocess.shape)),
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
    used = {name for node in made.graph.node for name in node.input}
    for tensor in [t for t in made.graph.initializer if t.name not in used]:
        made.graph.initializer.remove(tensor)  # engines warn about what nobody uses
    return made


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.10e}" for value in values)


def shared_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep equal constants once; the exporter writes one for every use.

    Args:
        model: changed in place.

    Returns:
        The same model.
    """
    first: dict[bytes, str] = {}
    other: dict[str, str] = {}
    for node in [n for n in model.graph.node if n.op_type == "Constant"]:
        name, value = node.output[0], node.attribute[0]
        value.t.ClearField("name")  # large ones have their own
        kept = first.setdefault(value.SerializeToString(), name)
        if kept != name:
            other[name] = kept
            model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]
    return model


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


def part_of(
    model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """The part of a graph that makes some of its tensors from others of them.

    Args:
        model: with everything between the two; it keeps its own nodes.
        inputs: inputs or outputs of `model`, whose shapes the part leaves open.
        outputs: outputs of `model`.

    Raises:
        ValueError: the outputs need more than these inputs.
    """
    graph = model.graph
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    needed: set[int] = set()
    waiting, seen = list(outputs), set(inputs)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in makers:
            needed.add(makers[name])
            waiting += graph.node[makers[name]].input
    lacking = {entry.name for entry in graph.input} & seen - set(inputs)
    if lacking:
        raise ValueError(f"{', '.join(outputs)} cannot be made without {', '.join(lacking)}")
    known = {entry.name: entry for entry in (*graph.input, *graph.output)}
    kinds = [known[name].type.tensor_type.elem_type for name in inputs]
    part = helper.make_graph(
        [node for place, node in enumerate(graph.node) if place in needed],
        graph.name,
        [helper.make_tensor_value_info(n, k, None) for n, k in zip(inputs, kinds, strict=True)],
        [known[name] for name in outputs],
        [tensor for tensor in graph.initializer if tensor.name in seen],
    )
    return helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
