#!/usr/bin/env python3
"""How quick the workbench is, and what it bears: scripts/measure-workbench.py EPICKER

Prints the times of tiles of an 11520 x 8184 micrograph, the time in which a folder of 5000 micrographs opens, and what ten thousand slow
connections do to the server. Needs nothing but Python, 400 MB of disk in a temporary folder, and Linux for the numbers of memory.
"""
import array
import json
import os
import random
import re
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request


def write_mrc(path, nx, ny):
    """Noise in an MRC file of 32-bit floats."""
    header = bytearray(1024)
    struct.pack_into("<4i", header, 0, nx, ny, 1, 2)
    struct.pack_into("<3i", header, 28, nx, ny, 1)
    struct.pack_into("<6f", header, 40, nx, ny, 1, 90, 90, 90)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    header[208:216] = b"MAP DD\0\0"
    # A megabyte of noise is enough for all rows: each begins at another place of it.
    noise = array.array("f", (random.gauss(0, 1) for _ in range(1 << 18)))
    with open(path, "wb") as file:
        file.write(header)
        for _ in range(ny):
            start = random.randrange(len(noise) - nx)
            file.write(noise[start : start + nx].tobytes())


class Served:
    def __init__(self, program, folder, *args):
        command = [program, "view", *args, "--port", "0", "--diameter", "180", "--output", os.path.join(folder, "workbench")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = re.search(r"http://([^/]+)/\?token=(\w+)", self.process.stdout.readline())
        self.address, self.token = found.groups()

    def get(self, path):
        request = urllib.request.Request(f"http://{self.address}{path}", headers={"X-Epicker-Token": self.token})
        return urllib.request.urlopen(request, timeout=5).read()

    def megabytes(self, key):
        return int(re.search(key + r":\s+(\d+)", open(f"/proc/{self.process.pid}/status").read()).group(1)) // 1024

    def end(self):
        self.process.terminate()
        self.process.wait()


def tiles(program, folder):
    write_mrc(os.path.join(folder, "large.mrc"), 11520, 8184)
    served = Served(program, folder, folder)
    start = time.time()
    about = json.loads(served.get("/api/micrograph/0"))
    print(f"11520 x 8184: opened in {time.time() - start:.2f} s")
    for look in ("low=0&flat=0", "low=20&flat=1", "low=60&flat=1"):
        times = []
        for level in range(about["levels"]):
            columns, rows = [max(1, (side >> level) // 256) for side in (11520, 8184)]
            for column in range(0, columns, max(1, columns // 5)):
                for row in range(0, rows, max(1, rows // 4)):
                    start = time.time()
                    served.get(f"/api/tile/0/{level}/{column}/{row}?{look}")
                    times.append(1e3 * (time.time() - start))
        times.sort()
        middle, most = times[len(times) // 2], times[int(0.95 * len(times))]
        print(f"  {look}: {len(times)} tiles, median {middle:.1f} ms, 95 % within {most:.1f} ms, slowest {times[-1]:.1f} ms")
    print(f"  memory {served.megabytes('VmRSS')} MB, at most {served.megabytes('VmHWM')} MB")
    served.end()


def many(program, folder):
    write_mrc(os.path.join(folder, "one"), 512, 512)
    mics = os.path.join(folder, "mics")
    os.mkdir(mics)
    for i in range(5000):
        os.symlink(os.path.join(folder, "one"), os.path.join(mics, f"m{i:05}.mrc"))
    start = time.time()
    served = Served(program, folder, mics)
    for path in ("/", "/api/session", "/api/micrographs", "/api/micrograph/0"):
        served.get(path + ("?token=" + served.token if path == "/" else ""))
    print(f"5000 micrographs: page, list and the first micrograph after {time.time() - start:.2f} s, {served.megabytes('VmRSS')} MB")
    served.end()


def slow(program, folder):
    write_mrc(os.path.join(folder, "one.mrc"), 512, 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    served = Served(program, folder, folder)
    host, port = served.address.split(":")
    before, connections = served.megabytes("VmRSS"), []
    for _ in range(10000):
        try:
            connection = socket.create_connection((host, int(port)), timeout=5)
            connection.send(b"GET / HTTP/1.1\r\nX: ")
            connections.append(connection)
        except OSError:
            pass
    files = len(os.listdir(f"/proc/{served.process.pid}/fd"))
    print(f"{len(connections)} slow connections: {files} files open, memory {before} to {served.megabytes('VmRSS')} MB", end="")
    start = time.time()
    while True:
        try:
            served.get("/api/session")
            break
        except OSError:
            time.sleep(0.1)
    print(f", answered again after {time.time() - start:.1f} s")
    served.end()


if len(sys.argv) != 2:
    sys.exit(__doc__)
for measure in (tiles, many, slow):
    with tempfile.TemporaryDirectory() as folder:
        measure(os.path.abspath(sys.argv[1]), folder)
