#!/usr/bin/env python3
"""Prints what the inner loops of kernels are made of, from disassemblies of their machine code.

    nvdisasm -c conv.sm_80.cubin > conv.sm_80.sass        # one file for each architecture
    scripts/kernel-inner-loops.py *.sass

For each kernel and architecture it looks at the innermost loop with the most multiply-adds, and prints three things: the
share of multiply-adds among the loop's instructions, where instructions that a branch skips count, too; how many of the
loads from global and from shared memory have 16 bytes; and the number of accesses to local memory (spills).
"""
import re
import sys

LABEL = re.compile(r"^(\.L\w+):")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+\{?\s*(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
# A loop with fewer multiply-adds than this gets no line.
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
    """The instructions of the innermost loop with the most multiply-adds. A loop reaches from a branch's target to the branch."""
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
    table, columns = {}, []
    for path in sys.argv[1:]:
        architecture = re.search(r"sm_\d+", path.rsplit("/", 1)[-1])
        column = architecture[0] if architecture else path
        if column not in columns:
            columns.append(column)
        for name, code, labels in kernels(path):
            loop = inner_loop(code, labels)
            if not loop:
                continue

            def count(*starts):
                found = [operation for operation in loop if operation.startswith(starts)]
                return f"{sum('.128' in operation for operation in found)}/{len(found)}", len(found)

            share = 100 * count("FFMA")[1] / len(loop)
            cell = f"{share:.0f} % of {len(loop)}, {count('LDG')[0]}, {count('LDS')[0]}, {count('LDL', 'STL')[1]}"
            table.setdefault(name, {})[column] = cell
    print(f"| kernel | {' | '.join(columns)} |")
    print("| --- |" + " --- |" * len(columns))
    for name in sorted(table):
        print(f"| {name} | {' | '.join(table[name].get(column, '') for column in columns)} |")


if __name__ == "__main__":
    main()
