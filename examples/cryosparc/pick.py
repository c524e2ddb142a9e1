#!/usr/bin/env python3
"""Picks the micrographs of a cryoSPARC job with epicker, as an External job of the same project.

    pip install cryosparc-tools
    ./pick.py P3 W1 J5.exposures --diameter 180 [OPTIONS OF epicker pick]...

The job that appears in the workspace takes the exposures as its input and has particles as its output, which
"Extract from Micrographs" takes at once: nothing is imported, and nobody types a name or a number of characters to cut.
Particles and micrographs belong together by cryoSPARC's own unique ids, so the leading numbers in the names of the files do
not matter.

EPICKER names the program [default: epicker]. CRYOSPARC_BASE_URL, CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD tell cryosparc-tools
where the server is and who asks; `python -m cryosparc.tools login` keeps that for later.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from cryosparc import star
from cryosparc.dataset import Dataset

# The fields of cryoSPARC's slots `location` and `pick_stats` that a picker can fill.
FIELDS = [
    ("location/micrograph_uid", "u8"),
    ("location/exp_group_id", "u4"),
    ("location/micrograph_path", "O"),
    ("location/micrograph_shape", "u4", (2,)),
    ("location/center_x_frac", "f4"),
    ("location/center_y_frac", "f4"),
    ("location/micrograph_psize_A", "f4"),
    ("pick_stats/ncc_score", "f4"),
]


def picks_of(path):
    """x, y and score of every pick in a STAR file of epicker."""
    blocks = star.read(path)
    rows = next(iter(blocks.values()))
    if len(rows) == 0:
        return np.zeros((0, 3))
    columns = ["rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"]
    return np.stack([np.asarray(rows[name], dtype=np.float64) for name in columns], axis=1)


def particles_of(exposures, picks, particles=None):
    """The picks as particles: `picks` holds an array of x, y, score for each exposure, in frame M.

    `particles` is the table to fill, as the server makes it for an output; without it a new one is made.
    """
    total = sum(len(one) for one in picks)
    if particles is None:
        particles = Dataset.allocate(total, FIELDS)
    which = np.repeat(np.arange(len(picks)), [len(one) for one in picks])
    points = np.concatenate(picks) if picks else np.zeros((0, 3))
    shape = np.asarray(exposures["micrograph_blob/shape"])[which].reshape(-1, 2)  # rows, columns
    known = set(particles.fields())

    def put(name, values):
        if name in known:
            particles[name] = values

    put("location/micrograph_uid", np.asarray(exposures["uid"])[which])
    put("location/micrograph_path", np.asarray(exposures["micrograph_blob/path"], dtype=object)[which])
    put("location/micrograph_shape", shape)
    put("location/center_x_frac", points[:, 0] / shape[:, 1])
    put("location/center_y_frac", points[:, 1] / shape[:, 0])
    if "micrograph_blob/psize_A" in exposures.fields():
        put("location/micrograph_psize_A", np.asarray(exposures["micrograph_blob/psize_A"])[which])
    if "mscope_params/exp_group_id" in exposures.fields():
        put("location/exp_group_id", np.asarray(exposures["mscope_params/exp_group_id"])[which])
    put("pick_stats/ncc_score", points[:, 2])
    return particles


def pick(exposures, project_dir, output, options):
    """Runs epicker on the micrographs of the exposures, and returns the picks of each, in their order."""
    output.mkdir(parents=True, exist_ok=True)
    exposures.save(output / "exposures.cs")  # epicker reads it as a list, with the pixel sizes
    program = os.environ.get("EPICKER", "epicker")
    command = [program, "pick", "--data", str((output / "exposures.cs").resolve()), "--output", str((output / "picks").resolve())]
    command += ["--output_type", "star", *options]
    print(shlex.join(command), flush=True)
    subprocess.run(command, cwd=project_dir, check=True)  # paths of exposures begin at the project
    picks = []
    for path in exposures["micrograph_blob/path"]:
        file = output / "picks" / (Path(str(path)).stem + ".star")
        picks.append(picks_of(file) if file.exists() else np.zeros((0, 3)))
    return picks


def main(arguments):
    if len(arguments) < 3 or "." not in arguments[2]:
        sys.exit(__doc__)
    project_uid, workspace_uid, source, *options = arguments
    source_job, source_output = source.split(".", 1)
    from cryosparc.tools import CryoSPARC  # the rest works without a server

    project = CryoSPARC().find_project(project_uid)
    job = project.create_external_job(workspace_uid, title="epicker")
    job.add_input(type="exposure", name="exposures", min=1, slots=["micrograph_blob"], title="Micrographs")
    job.connect("exposures", source_job, source_output)
    job.add_output(type="particle", name="particles", slots=["location", "pick_stats"], title="Picks of epicker")
    with job.run():
        exposures = job.load_input("exposures", ["micrograph_blob"])
        picks = pick(exposures, Path(str(project.dir)), Path(str(job.dir)) / "epicker", options)
        total = sum(len(one) for one in picks)
        job.log(f"{total} particles on {len(picks)} micrographs")
        particles = particles_of(exposures, picks, job.alloc_output("particles", total))
        job.save_output("particles", particles)


if __name__ == "__main__":
    main(sys.argv[1:])
