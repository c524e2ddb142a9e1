"""Times the network in ONNX Runtime, or in OpenVINO, on the CPU, to compare epicker with.

Builds DLA-34 with its deformable up path as an ONNX graph (opset 19, standard operator DeformConv; batch norm folded,
dead branches left out; outputs: sigmoid of hm, wh, reg), runs it, and prints one line of JSON.

    python3 benches/peers/onnx.py [--runtime openvino] [--weights MODEL.safetensors] [--frame 1024] [--threads 2] [--runs 7]
                                  [--check EXPECTED.safetensors] [--save GRAPH.onnx] [--profile]

Without --weights the weights are made by the formula of src/net/formula.rs; the widths of the network are those of the weights, so
weights/particle.safetensors makes the narrow one. OpenVINO reads the same graph. --check runs the frame of a file of
reference outputs (input_u8, hm_logit, wh, reg) first and fails if the outputs differ by more than 1e-4.
Needs: pip install numpy onnx onnxruntime (or openvino)
"""

import argparse
import json
import statistics
import sys
import time

sys.path.pop(0)  # this folder: this file has the name of a package that it imports

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, HEAD_WIDTH, HEADS = [16, 32, 64, 128, 256, 512], 256, {"hm": 1, "wh": 2, "reg": 2}
MEAN, DEVIATION = 0.502256, 0.289417
BATCH_NORM_EPS = 1e-5


# --- names and shapes of the weights, in the order of the checkpoint ------------------------------------------------


def batch_norm(name, ch):
    return [(f"{name}.{part}", [ch]) for part in ("weight", "bias", "running_mean", "running_var")]


def block(name, cin, cout):
    conv = [(f"{name}.conv1.weight", [cout, cin, 3, 3])] + batch_norm(f"{name}.bn1", cout)
    return conv + [(f"{name}.conv2.weight", [cout, cout, 3, 3])] + batch_norm(f"{name}.bn2", cout)


def tree(name, levels, cin, cout, root_channels):
    """root_channels: what the root sees beside the two branches of its tree."""
    shapes = []
    if levels == 1:
        shapes += block(f"{name}.tree1", cin, cout) + block(f"{name}.tree2", cout, cout)
        shapes += [(f"{name}.root.conv.weight", [cout, 2 * cout + root_channels, 1, 1])] + batch_norm(f"{name}.root.bn", cout)
    else:
        shapes += tree(f"{name}.tree1", 1, cin, cout, 0) + tree(f"{name}.tree2", 1, cout, cout, cin + cout)
    if cin != cout:
        shapes += [(f"{name}.project.0.weight", [cout, cin, 1, 1])] + batch_norm(f"{name}.project.1", cout)
    return shapes


def deform_conv(name, cin, cout):
    shapes = batch_norm(f"{name}.actf.0", cout) + [(f"{name}.conv.weight", [cout, cin, 3, 3]), (f"{name}.conv.bias", [cout])]
    offset = f"{name}.conv.conv_offset_mask"
    return shapes + [(f"{offset}.weight", [27, cin, 3, 3]), (f"{offset}.bias", [27])]


def ida_plan(channels):
    """(name, width, [(input channels, factor)]) of the four aggregations."""
    _, _, c2, c3, c4, c5 = channels
    return [
        ("dla_up.ida_0", c4, [(c5, 2)]),
        ("dla_up.ida_1", c3, [(c4, 2)] * 2),
        ("dla_up.ida_2", c2, [(c3, 2)] * 3),
        ("ida_up", c2, [(c3, 2), (c4, 4)]),
    ]


def shapes_of_network(channels=CHANNELS, head_width=HEAD_WIDTH):
    c0, c1, c2, c3, c4, c5 = channels
    shapes = [("base.base_layer.0.weight", [c0, 3, 7, 7])] + batch_norm("base.base_layer.1", c0)
    shapes += [("base.level0.0.weight", [c0, c0, 3, 3])] + batch_norm("base.level0.1", c0)
    shapes += [("base.level1.0.weight", [c1, c0, 3, 3])] + batch_norm("base.level1.1", c1)
    shapes += tree("base.level2", 1, c1, c2, 0) + tree("base.level3", 2, c2, c3, 0)
    shapes += tree("base.level4", 2, c3, c4, 0) + tree("base.level5", 1, c4, c5, c4)
    for name, width, steps in ida_plan(channels):
        for i, (cin, factor) in enumerate(steps, 1):
            shapes += deform_conv(f"{name}.proj_{i}", cin, width)
            shapes += [(f"{name}.up_{i}.weight", [width, 1, 2 * factor, 2 * factor])]
            shapes += deform_conv(f"{name}.node_{i}", width, width)
    for head, outputs in HEADS.items():
        shapes += [(f"{head}.0.weight", [head_width, c2, 3, 3]), (f"{head}.0.bias", [head_width])]
        shapes += [(f"{head}.2.weight", [outputs, head_width, 1, 1]), (f"{head}.2.bias", [outputs])]
    return shapes


# --- weights --------------------------------------------------------------------------------------------------------


def uniform(name, count):
    """Numbers in 0..1: FNV-1a of the name, counted on, through splitmix64."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.arange(count, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def formula_weight(name, shape):
    """The same formula as src/net/formula.rs."""
    u = uniform(name, int(np.prod(shape))).reshape(shape)
    sign, spread = 2 * u - 1, np.sqrt(3 / np.prod(shape[1:]))
    if "conv_offset_mask" in name:
        value = spread * 0.2 * sign if len(shape) == 4 else 0.5 * sign
    elif ".up_" in name:
        factor = shape[2] // 2
        centre = (2 * factor - 1 - factor % 2) / (2 * factor)
        ramp = 1 - np.abs(np.arange(2 * factor) / factor - centre)
        value = ramp[:, None] * ramp[None, :] * (1 + 0.2 * sign)
    elif len(shape) == 4:
        deformable = name.endswith(".conv.weight") and "_up." in name
        value = spread * (2.0 if deformable else 1.0 if name.split(".")[1] == "2" else 1.2) * sign
    elif name.endswith((".weight", ".running_var")):
        value = 0.5 + u
    else:
        value = 0.1 * sign - (2.19 if name == "hm.2.bias" else 0)
    return value.astype(np.float32)


def read_safetensors(path):
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    read = lambda info: np.frombuffer(data[slice(*info["data_offsets"])], types[info["dtype"]]).reshape(info["shape"])
    return {name: read(info) for name, info in header.items()}


# --- the graph ------------------------------------------------------------------------------------------------------


class Graph:
    def __init__(self, weights):
        self.weights, self.nodes, self.constants = weights, [], []

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    def node(self, op, inputs, name, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def relu(self, x):
        return self.node("Relu", [x], x + ".relu")

    def fold(self, weight, norm, bias=0.0):
        """Weight and bias with the batch norm inside, computed in f64."""
        gamma, beta, mean, var = (self.weights[f"{norm}.{p}"].astype(np.float64) for p in ("weight", "bias", "running_mean", "running_var"))
        scale = gamma / np.sqrt(var + BATCH_NORM_EPS)
        return self.weights[weight].astype(np.float64) * scale[:, None, None, None], beta + (bias - mean) * scale

    def conv(self, x, name, weight, bias, stride=1):
        k = weight.shape[2]
        inputs = [x, self.constant(name + ".w", weight), self.constant(name + ".b", bias)]
        return self.node("Conv", inputs, name, kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4)

    def conv_norm(self, x, conv, norm, stride=1):
        return self.conv(x, conv, *self.fold(f"{conv}.weight", norm), stride)

    def block(self, x, name, residual, stride):
        y = self.relu(self.conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride))
        y = self.conv_norm(y, f"{name}.conv2", f"{name}.bn2")
        return self.relu(self.node("Add", [y, residual], f"{name}.sum"))

    def tree(self, x, name, levels, stride, children=()):
        pooled = self.node("MaxPool", [x], f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2]) if stride > 1 else x
        if levels == 2:
            x1 = self.tree(x, f"{name}.tree1", 1, stride)
            return self.tree(x1, f"{name}.tree2", 1, 1, [pooled, x1])
        projected = pooled
        if f"{name}.project.0.weight" in self.weights:
            projected = self.conv_norm(pooled, f"{name}.project.0", f"{name}.project.1")
        x1 = self.block(x, f"{name}.tree1", projected, stride)
        x2 = self.block(x1, f"{name}.tree2", x1, 1)
        if name == "base.level5":
            children = [pooled]
        joined = self.node("Concat", [x2, x1, *children], f"{name}.concat", axis=1)
        return self.relu(self.conv_norm(joined, f"{name}.root.conv", f"{name}.root.bn"))

    def deform_conv(self, x, name):
        offset_mask = f"{name}.conv.conv_offset_mask"
        maps = self.conv(x, offset_mask, self.weights[f"{offset_mask}.weight"], self.weights[f"{offset_mask}.bias"])
        offset, mask = f"{name}.offset", f"{name}.mask"
        self.nodes.append(helper.make_node("Split", [maps, "offset_and_mask"], [offset, mask + ".logit"], axis=1, name=f"{name}.split"))
        self.node("Sigmoid", [mask + ".logit"], mask)
        weight, bias = self.fold(f"{name}.conv.weight", f"{name}.actf.0", self.weights[f"{name}.conv.bias"].astype(np.float64))
        inputs = [x, self.constant(f"{name}.w", weight), offset, self.constant(f"{name}.b", bias), mask]
        return self.relu(self.node("DeformConv", inputs, name, kernel_shape=[3, 3], pads=[1] * 4))

    def up(self, x, name):
        weight = self.weights[f"{name}.weight"]
        channels, factor = weight.shape[0], weight.shape[2] // 2
        options = dict(kernel_shape=[2 * factor] * 2, strides=[factor] * 2, pads=[factor // 2] * 4, group=channels)
        return self.node("ConvTranspose", [x, self.constant(f"{name}.w", weight)], name, **options)

    def aggregate(self, maps, name):
        """In place: every map becomes one of the finest map's size."""
        for i in range(1, len(maps)):
            up = self.up(self.deform_conv(maps[i], f"{name}.proj_{i}"), f"{name}.up_{i}")
            maps[i] = self.deform_conv(self.node("Add", [up, maps[i - 1]], f"{name}.sum_{i}"), f"{name}.node_{i}")

    def network(self):
        x = self.relu(self.conv_norm("image", "base.base_layer.0", "base.base_layer.1"))
        x = self.relu(self.conv_norm(x, "base.level0.0", "base.level0.1"))
        x = self.relu(self.conv_norm(x, "base.level1.0", "base.level1.1", 2))
        maps = []
        for level, levels in ((2, 1), (3, 2), (4, 2), (5, 1)):
            x = self.tree(x, f"base.level{level}", levels, 2)
            maps.append(x)
        coarsest = []
        for i in range(3):
            part = maps[2 - i :]
            self.aggregate(part, f"dla_up.ida_{i}")
            maps[2 - i :] = part
            coarsest.insert(0, part[-1])
        self.aggregate(coarsest, "ida_up")
        for head in HEADS:
            y = self.relu(self.conv(coarsest[-1], f"{head}.0", self.weights[f"{head}.0.weight"], self.weights[f"{head}.0.bias"]))
            y = self.conv(y, f"{head}.2", self.weights[f"{head}.2.weight"], self.weights[f"{head}.2.bias"])
            self.node("Sigmoid" if head == "hm" else "Identity", [y], head)

    def model(self):
        self.constants.append(numpy_helper.from_array(np.array([18, 9], dtype=np.int64), "offset_and_mask"))
        self.network()
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])
        outputs = [helper.make_tensor_value_info(head, TensorProto.FLOAT, [1, n, "h4", "w4"]) for head, n in HEADS.items()]
        graph = helper.make_graph(self.nodes, "dla34", [image], outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        onnx.checker.check_model(model)
        return model


# --- running it -----------------------------------------------------------------------------------------------------


def in_onnxruntime(model, args):
    """The network as a function of an image, and the version."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_profiling = args.profile
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(list(HEADS), {"image": image}), onnxruntime.__version__


def in_openvino(model, args):
    """The same in OpenVINO: in f32, with the image's size fixed, as it computes fastest."""
    import openvino
    from openvino import opset8
    from openvino.frontend.onnx import ConversionExtension

    def deform_conv(node):
        """Its reader of ONNX files does not know DeformConv, but it has an operation of its own that computes the same."""
        image, weight, offset, bias, mask = (node.get_input(i) for i in range(5))
        ones, pads = [1, 1], [1, 1]
        sums = opset8.deformable_convolution(
            image, offset, weight, ones, pads, pads, ones, mask, bilinear_interpolation_pad=True
        )
        shape = opset8.constant(np.array([1, -1, 1, 1], dtype=np.int64))
        return [opset8.add(sums, opset8.reshape(bias, shape, False)).output(0)]

    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", deform_conv))
    network = core.read_model(model.SerializeToString())
    network.reshape([1, 3, args.frame, args.frame])
    settings = {"INFERENCE_NUM_THREADS": args.threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(network, "CPU", settings).create_infer_request()

    def run(image):
        found = request.infer({"image": image}, share_inputs=True, share_outputs=True)
        return [found[head] for head in HEADS]

    return run, openvino.__version__.split("-")[0]


RUNTIMES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}


def check(run, path):
    """Largest difference from reference outputs."""
    expected = read_safetensors(path)
    image = ((expected["input_u8"].astype(np.float64) / 255 - MEAN) / DEVIATION).astype(np.float32)
    image = np.broadcast_to(image.reshape(1, 1, *image.shape[-2:]), (1, 3, *image.shape[-2:]))
    hm, wh, reg = run(np.ascontiguousarray(image))
    wanted = {"hm": 1 / (1 + np.exp(-expected["hm_logit"])), "wh": expected["wh"], "reg": expected["reg"]}
    return {head: float(np.abs(found - wanted[head]).max()) for head, found in (("hm", hm), ("wh", wh), ("reg", reg))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime", help="which program runs the graph")
    parser.add_argument("--weights", help="model as .safetensors; by default the formula")
    parser.add_argument("--frame", type=int, default=1024, help="side of the input, pixels")
    parser.add_argument("--threads", type=int, default=2, help="threads of the program")
    parser.add_argument("--runs", type=int, default=7, help="timed runs")
    parser.add_argument("--warmup", type=int, default=2, help="runs before the timed ones")
    parser.add_argument("--check", metavar="EXPECTED", help="reference outputs as .safetensors; they say the frame")
    parser.add_argument("--save", metavar="GRAPH", help="write the ONNX file")
    parser.add_argument("--profile", action="store_true", help="write ONNX Runtime's profile into the current folder")
    args = parser.parse_args()

    if args.check:
        args.frame = read_safetensors(args.check)["input_u8"].shape[-1]
    weights = read_safetensors(args.weights) if args.weights else {n: formula_weight(n, s) for n, s in shapes_of_network()}
    model = Graph(weights).model()
    if args.save:
        onnx.save(model, args.save)
    run, version = RUNTIMES[args.runtime](model, args)
    result = {"peer": args.runtime, "version": version, "frame": args.frame, "threads": args.threads}
    if args.check:
        result["difference"] = check(run, args.check)
        assert max(result["difference"].values()) < 1e-4, f"outputs differ from {args.check}: {result['difference']}"
    if args.runs:
        noise = np.random.default_rng(1).normal(size=(1, 1, args.frame, args.frame)).astype(np.float32)
        image = np.ascontiguousarray(np.broadcast_to(noise, (1, 3, args.frame, args.frame)))
        times = []
        for _ in range(args.warmup + args.runs):
            start = time.perf_counter()
            run(image)
            times.append((time.perf_counter() - start) * 1e3)
        times = times[args.warmup :]
        result |= {"network_ms": round(statistics.median(times), 1), "fastest_ms": round(min(times), 1), "runs": args.runs}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
