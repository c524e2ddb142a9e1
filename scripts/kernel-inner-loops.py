#!/usr/bin/env python3
"""Prints what the inner loops of kernels are made of, from disassemblies of their machine code.

    nvdisasm -c conv.sm_80.cubin > conv.sm_80.sass
    scripts/kernel-inner-loops.py conv.sm_80.sass ...

For each kernel: the innermost loop with the most multiply-adds, its instructions and their share of multiply-adds, the loads from
global and from shared memory (all, and those of 16 bytes), and accesses to local memory (spills) in it. Instructions are
counted where they stand, so what a branch skips counts too.
"""
import re
import sys

LABEL = re.compile(r"^(\.L\w+):")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+\{?\s*(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
# Multiply-adds of a loop that is worth a line.
LEAST = 32
TARGET = re.compile(r"`\((\.L\w+)\)")


def kernels(path):
    """Yields (name, [(operation, operands)], {label: index}) of each kernel of a disassembly."""
    name, code, labels = None, [], {}
    for line in open(path, encoding="utf-8"):
        if line.startswith(".text."):
            if name:
                yield name, code, labels
            name, code, labels = line.strip()[6:].rstrip(":"), [], {}
        elif label := LABEL.match(line):
            labels[label[1]] = len(code)
        elif name and (found := INSTRUCTION.search(line)):
            code.append((found[1], found[2]))
    if name:
        yield name, code, labels


def inner_loop(code, labels):
    """Of the loops that hold no other loop of multiply-adds, the one with the most: from a branch's target to the branch."""
    loops = []
    for end, (operation, operands) in enumerate(code):
        target = TARGET.search(operands)
        if operation.startswith("BRA") and target and labels.get(target[1], end + 1) <= end:
            loop = [operation for operation, _ in code[labels[target[1]] : end + 1] if not operation.startswith("NOP")]
            count = sum(operation.startswith("FFMA") for operation in loop)
            if count >= LEAST:
                loops.append((labels[target[1]], end, count, loop))
    inner = [a for a in loops if not any(b is not a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return max(inner, key=lambda loop: loop[2], default=(0, 0, 0, []))[3]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    print("| disassembly | kernel | instructions | multiply-adds | share | global loads (16 bytes) | shared loads (16 bytes) | local |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in sys.argv[1:]:
        for name, code, labels in kernels(path):
            loop = inner_loop(code, labels)

            def count(*starts):
                found = [operation for operation in loop if operation.startswith(starts)]
                return len(found), sum(".128" in operation for operation in found)

            multiplied, (loads, wide), (shared, wide_shared) = count("FFMA")[0], count("LDG"), count("LDS")
            if not loop:
                continue
            print(
                f"| {path.rsplit('/', 1)[-1]} | {name} | {len(loop)} | {multiplied} | {100 * multiplied / len(loop):.0f} % "
                f"| {loads} ({wide}) | {shared} ({wide_shared}) | {count('LDL', 'STL')[0]} |"
            )


if __name__ == "__main__":
    main()
