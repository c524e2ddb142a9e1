#!/usr/bin/env python3
"""Tests pick.py with the classes of cryosparc-tools, without a server: EPICKER=path/to/epicker ./test_pick.py

Micrographs of the repository stand for those of a project, under names with a leading unique id. What pick.py hands to the
server is saved by the package's own Dataset, in both of its formats, and must come back from `epicker coords` as the same
coordinates.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from cryosparc.dataset import CSDAT_FORMAT, NUMPY_FORMAT, Dataset

import pick

ROOT = Path(__file__).resolve().parents[2]
MICROGRAPH = ROOT / "tests/samples/blobs_1100x1000.mrc.gz"
UIDS = [5216894236549613284, 14628901734518873020]


def exposures_of(project):
    """Two micrographs as a job of cryoSPARC leaves them."""
    folder = project / "J5/motioncorrected"
    folder.mkdir(parents=True)
    paths = [f"J5/motioncorrected/{uid:021}_grid_{i}_patch_aligned.mrc" for i, uid in enumerate(UIDS)]
    for path in paths:
        with gzip.open(MICROGRAPH) as packed, open(project / path, "wb") as out:
            shutil.copyfileobj(packed, out)
    fields = [("micrograph_blob/path", "O"), ("micrograph_blob/shape", "u4", (2,)), ("micrograph_blob/psize_A", "f4")]
    exposures = Dataset.allocate(2, fields)
    exposures["uid"] = np.array(UIDS, np.uint64)
    exposures["micrograph_blob/path"] = np.array(paths, object)
    exposures["micrograph_blob/shape"] = np.tile(np.array([[1000, 1100]], np.uint32), (2, 1))
    exposures["micrograph_blob/psize_A"] = np.full(2, 1.5, np.float32)
    return exposures


class Job:
    """What pick.py asks of an External job, answered by the package's own data sets."""

    uid = "J9"

    def __init__(self, project):
        self.dir, self.exposures, self.saved, self.calls = project / self.uid, exposures_of(project), {}, []

    def add_input(self, **how):
        self.calls.append(("add_input", how))

    def add_output(self, **how):
        self.calls.append(("add_output", how))

    def connect(self, *what):
        self.calls.append(("connect", what))

    def load_input(self, name, slots):
        return self.exposures

    def alloc_output(self, name, rows):
        return Dataset.allocate(rows, pick.FIELDS)

    def save_output(self, name, dataset):
        self.saved[name] = dataset

    def log(self, text):
        print(text)

    def run(self):
        return mock.MagicMock(__enter__=lambda _: self, __exit__=lambda *_: False)


def coordinates(epicker, file, folder):
    """Rows of name, x and y that `epicker coords` reads from a file."""
    subprocess.run([epicker, "coords", file, "--to", "cryosparc", "--output", folder], check=True)
    lines = (folder / "particles.star").read_text().splitlines()
    rows = [line.split("\t") for line in lines if "\t" in line]
    return [row[0] for row in rows], np.array([[float(row[1]), float(row[2]), float(row[3])] for row in rows])


def main():
    epicker = os.path.abspath(os.environ["EPICKER"])
    os.environ["EPICKER"] = epicker
    with tempfile.TemporaryDirectory() as place:
        project = Path(place) / "project"
        project.mkdir()
        job = Job(project)
        server = mock.MagicMock()
        found = server.CryoSPARC.return_value.find_project.return_value
        found.dir, found.create_external_job.return_value = project, job
        options = ["--load_model", str(ROOT / "tests/golden/models/trained.pth"), "--vis_thresh", "0.3"]
        with mock.patch.dict(sys.modules, {"cryosparc.tools": server}):
            pick.main(["P3", "W1", "J5.exposures", *options])
        particles = job.saved["particles"]
        assert ("connect", ("exposures", "J5", "exposures")) in job.calls
        assert len(particles) > 10 and len(set(particles["uid"])) == len(particles)
        assert set(particles["location/micrograph_uid"]) == set(UIDS)
        shape = particles["location/micrograph_shape"]
        ours = np.stack([particles["location/center_x_frac"] * shape[:, 1], particles["location/center_y_frac"] * shape[:, 0]], axis=1)
        for format in [NUMPY_FORMAT, CSDAT_FORMAT]:
            file = Path(place) / "particles.cs"
            particles.save(file, format=format)
            again = Dataset.load(file)
            names, rows = coordinates(epicker, file, Path(place) / f"stars{format}")
            assert names == [os.path.basename(path) for path in again["location/micrograph_path"]]
            assert np.abs(rows[:, :2] - ours).max() < 0.006, "positions of STAR have two decimals"
            assert np.abs(rows[:, 2] - particles["pick_stats/ncc_score"]).max() < 1e-6
        # Names of the micrographs as the exposures have them, unique ids and all: what an import compares.
        job.exposures.save(project / "J5/exposures.cs")
        raw = Path(place) / "labels"
        raw.mkdir()
        (raw / "grid_0.coord").write_text("10 20\n")
        subprocess.run(
            [epicker, "coords", raw, "--to", "cryosparc", "--data", project / "J5/exposures.cs", "--output", Path(place) / "import"],
            check=True,
        )
        table = (Path(place) / "import/particles.star").read_text()
        assert f"\n{UIDS[0]:021}_grid_0_patch_aligned.mrc\t10.00\t20.00" in table, table
        print(f"{len(particles)} particles went to cryoSPARC's classes and came back")


if __name__ == "__main__":
    main()
