"""Times a training step of the full network in PyTorch on the CPU, to compare epicker's with.

DLA-34 with its deformable up path (torchvision.ops.deform_conv2d) and batch norms by the batch, focal and offset loss,
backward, Adam. Parameters are random: what they are does not change the time. Prints one line of JSON.

    python3 benches/peers/pytorch_step.py [--frame 512] [--batch 1] [--threads 2] [--runs 3]

Needs: pip install torch torchvision
"""

import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d


class Network:
    """Parameters are made when they are first used, by name."""

    def __init__(self):
        self.parameters = {}

    def parameter(self, name, shape, start=None):
        if name not in self.parameters:
            value = torch.randn(shape) * (2 / max(1, torch.Size(shape[1:]).numel())) ** 0.5 if start is None else torch.full(shape, start)
            self.parameters[name] = value.requires_grad_()
        return self.parameters[name]

    def norm(self, x, name):
        c = x.shape[1]
        weight, bias = self.parameter(f"{name}.weight", [c], 1.0), self.parameter(f"{name}.bias", [c], 0.0)
        mean, var = torch.zeros(c), torch.ones(c)  # running statistics: moved, and here forgotten
        return F.batch_norm(x, mean, var, weight, bias, training=True)

    def conv(self, x, name, cout, k, stride=1):
        return F.conv2d(x, self.parameter(f"{name}.weight", [cout, x.shape[1], k, k]), stride=stride, padding=k // 2)

    def block(self, x, name, cout, residual, stride):
        y = F.relu(self.norm(self.conv(x, f"{name}.conv1", cout, 3, stride), f"{name}.bn1"))
        return F.relu(self.norm(self.conv(y, f"{name}.conv2", cout, 3), f"{name}.bn2") + residual)

    def tree(self, x, name, levels, cout, stride, children=()):
        pooled = F.max_pool2d(x, 2) if stride > 1 else x
        if levels == 2:
            x1 = self.tree(x, f"{name}.tree1", 1, cout, stride)
            return self.tree(x1, f"{name}.tree2", 1, cout, 1, [pooled, x1])
        projected = pooled
        if x.shape[1] != cout:
            projected = self.norm(self.conv(pooled, f"{name}.project.0", cout, 1), f"{name}.project.1")
        x1 = self.block(x, f"{name}.tree1", cout, projected, stride)
        x2 = self.block(x1, f"{name}.tree2", cout, x1, 1)
        if name == "base.level5":
            children = [pooled]
        joined = torch.cat([x2, x1, *children], 1)
        return F.relu(self.norm(self.conv(joined, f"{name}.root.conv", cout, 1), f"{name}.root.bn"))

    def deform_conv(self, x, name, cout):
        maps = self.conv(x, f"{name}.conv.conv_offset_mask", 27, 3) * 0.1 + self.parameter(f"{name}.offset_bias", [1, 27, 1, 1], 0.1)
        weight, bias = self.parameter(f"{name}.conv.weight", [cout, x.shape[1], 3, 3]), self.parameter(f"{name}.conv.bias", [cout], 0.0)
        y = deform_conv2d(x, maps[:, :18], weight, bias, padding=1, mask=torch.sigmoid(maps[:, 18:]))
        return F.relu(self.norm(y, f"{name}.actf.0"))

    def aggregate(self, maps, name):
        cout = maps[0].shape[1]
        for i in range(1, len(maps)):
            y = self.deform_conv(maps[i], f"{name}.proj_{i}", cout)
            f = maps[i - 1].shape[2] // y.shape[2]
            weight = self.parameter(f"{name}.up_{i}.weight", [cout, 1, 2 * f, 2 * f])
            y = F.conv_transpose2d(y, weight, stride=f, padding=f // 2, groups=cout)
            maps[i] = self.deform_conv(y + maps[i - 1], f"{name}.node_{i}", cout)

    def __call__(self, x):
        x = F.relu(self.norm(self.conv(x, "base.base_layer.0", 16, 7), "base.base_layer.1"))
        x = F.relu(self.norm(self.conv(x, "base.level0.0", 16, 3), "base.level0.1"))
        x = F.relu(self.norm(self.conv(x, "base.level1.0", 32, 3, 2), "base.level1.1"))
        maps = []
        for level, levels, cout in ((2, 1, 64), (3, 2, 128), (4, 2, 256), (5, 1, 512)):
            x = self.tree(x, f"base.level{level}", levels, cout, 2)
            maps.append(x)
        finest = []
        for i in range(3):
            part = maps[2 - i :]
            self.aggregate(part, f"dla_up.ida_{i}")
            maps[2 - i :] = part
            finest.insert(0, part[-1])
        self.aggregate(finest, "ida_up")
        heads = {}
        for head, outputs in (("hm", 1), ("reg", 2)):
            y = F.relu(self.conv(finest[-1], f"{head}.0", 256, 3) + self.parameter(f"{head}.0.bias", [1, 256, 1, 1], 0.0))
            heads[head] = self.conv(y, f"{head}.2", outputs, 1) * 0.1 + self.parameter(f"{head}.2.bias", [1, outputs, 1, 1], -2.19)
        return heads


def losses(heads, heat_map, mask, offset):
    p = heads["hm"].sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = heat_map == 1
    focal = torch.where(positive, (1 - p) ** 2 * p.log(), (1 - heat_map) ** 4 * p**2 * (1 - p).log()).sum() / positive.sum()
    return (mask * (heads["reg"] - offset)).abs().sum() / mask.sum() - focal


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frame", type=int, default=512, help="side of the input, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images of a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="timed steps, after one that is not")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    side = args.frame // 4
    image = torch.randn(args.batch, 3, args.frame, args.frame)
    heat_map = torch.rand(args.batch, 1, side, side) * 0.5
    heat_map[:, :, ::16, ::16] = 1
    mask = (heat_map == 1).float()
    offset = torch.rand(args.batch, 2, side, side)
    network, optimiser, times = Network(), None, []
    for _ in range(1 + args.runs):
        wall, cpu = time.perf_counter(), time.process_time()
        loss = losses(network(image), heat_map, mask, offset)
        optimiser = optimiser or torch.optim.Adam(network.parameters.values(), 1e-4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = (statistics.median(column) for column in zip(*times[1:]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parameters = sum(value.numel() for value in network.parameters.values())
    print(json.dumps({"peer": "pytorch", "version": torch.__version__, "frame": args.frame, "batch": args.batch, "threads": args.threads,
                      "parameters": parameters, "step_s": round(wall, 2), "step_cpu_s": round(cpu, 2), "peak_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
