"""Computes with starfile and numpy where the particles of a STAR file lie on their micrographs, and prints it as JSON.

An independent check of `epicker coords`: no code of ours reads the files, and the arithmetic is written out here once
more. The particle lies at coordinate - shift / pixel size of the micrograph. That pixel size is the first that is known of
ANGPIX, rlnMicrographPixelSize of the particles' file, that of the list of micrographs, and the header's.

    python3 tests/python/pixel_sizes.py PARTICLES.star MICROGRAPHS.star|- ANGPIX|- HEADER|-

Printed are [name of the micrograph, x, y] of each particle, in the order of the file.
"""

import json
import sys

import numpy as np
import starfile


def tables(path):
    """The blocks of a file by name, each a table of columns; the file's only block has any name."""
    blocks = starfile.read(path, always_dict=True)
    return {name: {label: np.atleast_1d(np.asarray(block[label])) for label in block} for name, block in blocks.items()}


def joined(blocks, rows):
    """The columns of a table, and of its optics groups where the table itself has none of that name."""
    table, optics = blocks[rows], blocks.get("optics")
    out = dict(table)
    if optics is not None and "rlnOpticsGroup" in table:
        groups = np.asarray(optics["rlnOpticsGroup"], dtype=float)
        place = [int(np.flatnonzero(groups == float(group))[0]) for group in table["rlnOpticsGroup"]]
        for label, column in optics.items():
            out.setdefault(label, column[place])
    return out


def main():
    particles, micrographs, given, header = sys.argv[1:5]
    blocks = tables(particles)
    table = joined(blocks, next(name for name, block in blocks.items() if "rlnCoordinateX" in block))
    count = len(table["rlnCoordinateX"])
    size = np.full(count, np.nan)
    listed = {}
    if micrographs != "-":
        listed_blocks = tables(micrographs)
        entries = joined(listed_blocks, next(name for name, block in listed_blocks.items() if "rlnMicrographName" in block))
        listed = dict(zip(entries["rlnMicrographName"], np.asarray(entries.get("rlnMicrographPixelSize", []), dtype=float)))
    sources = [
        np.full(count, float(given)) if given != "-" else None,
        np.asarray(table["rlnMicrographPixelSize"], dtype=float) if "rlnMicrographPixelSize" in table else None,
        np.array([listed.get(name, np.nan) for name in table["rlnMicrographName"]]),
        np.full(count, float(header)) if header != "-" else None,
    ]
    for source in sources:
        if source is not None:
            size = np.where(np.isnan(size), source, size)
    if "rlnOriginXAngst" in table:
        shift = np.array([table["rlnOriginXAngst"], table["rlnOriginYAngst"]], dtype=float)
    else:
        # RELION 3.0: pixels of the particle's image, whose size is the detector's divided by the magnification.
        particle = 1e4 * np.asarray(table["rlnDetectorPixelSize"], dtype=float) / np.asarray(table["rlnMagnification"], dtype=float)
        shift = particle * np.array([table["rlnOriginX"], table["rlnOriginY"]], dtype=float)
    place = np.array([table["rlnCoordinateX"], table["rlnCoordinateY"]], dtype=float) - shift / size
    print(json.dumps([[str(name), x, y] for name, x, y in zip(table["rlnMicrographName"], *place.tolist())]))


main()
