#!/usr/bin/env python3
"""Writes what a release has to say of other people's code in it: third-party.py FOLDER makes

    THIRD-PARTY-LICENSES.txt   each crate that is linked into the program, with its licence's text as the crate ships it
    epicker.cdx.json           the same list for programs: a bill of materials (SBOM) in CycloneDX 1.5

It asks `cargo metadata` for the crates and reads their sources where cargo keeps them, so it needs no network once they are
there. A crate whose licence nobody could tell ends it with an error. The same sources give the same bytes.
"""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

TARGET = "x86_64-unknown-linux-gnu"
LICENCE_FILE = re.compile(r"(?i)^(licen[sc]e|copying|copyright|notice|unlicense)")
# Text for crates that state a licence by its name and ship no file: what the licence itself says, with the crate's authors.
MIT = """Copyright (c) {authors}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software
is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def crates(metadata):
    """The packages that are linked into the program, and which of them each one needs."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    needed, todo = {}, [metadata["resolve"]["root"]]
    while todo:
        package = todo.pop()
        if package in needed:
            continue
        # Crates that only a build script or a test needs are not in the program; proc macros only write code.
        is_linked = lambda dep: any(kind["kind"] is None for kind in dep["dep_kinds"])
        is_macro = lambda id: any("proc-macro" in target["kind"] for target in packages[id]["targets"])
        needed[package] = [dep["pkg"] for dep in nodes[package]["deps"] if is_linked(dep) and not is_macro(dep["pkg"])]
        todo += needed[package]
    return packages, needed


def texts(package, repository):
    """Name and text of each licence file of a crate."""
    folder = Path(package["manifest_path"]).parent
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and LICENCE_FILE.match(path.name)]
    if not found and (folder / "LICENSES").is_dir():
        found = [path for path in sorted((folder / "LICENSES").iterdir()) if path.is_file()]
    if package.get("license_file"):
        path = (folder / package["license_file"]).resolve()
        found += [path] if path.is_file() and path not in found else []
    if found:
        return [(path.name, path.read_text(encoding="utf-8", errors="replace").strip()) for path in found]
    stated = package.get("license") or ""
    authors = ", ".join(package.get("authors") or []) or f"the authors of {package['name']}"
    if "MIT" in stated:
        return [("MIT, which the crate states without its text", MIT.format(authors=authors).strip())]
    if "Apache-2.0" in stated:
        return [("Apache-2.0, which the crate states without its text", (repository / "LICENSE-APACHE").read_text().strip())]
    sys.exit(f"{package['name']} {package['version']}: no licence text, and '{stated}' is none whose text is known here; add it to this script")


def standard_library():
    """What Rust says of its own library, which is linked, too."""
    sysroot = Path(output_of("rustc", "--print", "sysroot").strip())
    found = []
    for name in ["COPYRIGHT", "LICENSE-MIT", "LICENSE-APACHE"]:
        path = sysroot / "share/doc/rust" / name
        if path.is_file():
            found.append((name, path.read_text(encoding="utf-8", errors="replace").strip()))
    return found


def checksums(lock):
    """SHA-256 of each crate's archive, by name and version, as Cargo.lock has them."""
    found = {}
    for block in lock.split("[[package]]")[1:]:
        value = lambda key: (re.search(rf'^{key} = "(.*)"$', block, re.M) or [None, None])[1]
        found[value("name"), value("version")] = value("checksum")
    return found


def main(folder):
    repository = Path(__file__).resolve().parent.parent
    metadata = json.loads(output_of("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET))
    packages, needed = crates(metadata)
    root = metadata["resolve"]["root"]
    others = sorted((id for id in needed if id != root), key=lambda id: (packages[id]["name"], packages[id]["version"]))
    rustc = output_of("rustc", "--version").strip()

    by_text = {}
    lines = [f"epicker {packages[root]['version']} is linked with these crates, and with the library of {rustc}", "(MIT OR Apache-2.0).", ""]
    for id in others:
        package = packages[id]
        lines.append(f"{package['name']} {package['version']}: {package.get('license') or 'see its text'}; {package.get('repository') or 'crates.io'}")
        for name, text in texts(package, repository):
            by_text.setdefault(text, []).append(f"{package['name']} {package['version']} ({name})")
    for name, text in standard_library():
        by_text.setdefault(text, []).append(f"the library of {rustc} ({name})")
    for text, owners in by_text.items():
        lines += ["", "=" * 80, *owners, "-" * 80, text]
    (folder / "THIRD-PARTY-LICENSES.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    sums = checksums((repository / "Cargo.lock").read_text())
    purl = lambda id: f"pkg:cargo/{packages[id]['name']}@{packages[id]['version']}"

    def component(id):
        package = packages[id]
        told = {"type": "library", "bom-ref": purl(id), "name": package["name"], "version": package["version"], "purl": purl(id)}
        if package.get("license"):
            told["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        checksum = sums.get((package["name"], package["version"]))
        if checksum:
            told["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return told

    commit = output_of("git", "-C", str(repository), "rev-parse", "HEAD").strip()
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": output_of("git", "-C", str(repository), "log", "-1", "--format=%cI").strip(),
            "component": {**component(root), "type": "application"},
            "properties": [{"name": "commit", "value": commit}, {"name": "rustc", "value": rustc}, {"name": "target", "value": TARGET}],
        },
        "components": [component(id) for id in others],
        "dependencies": [{"ref": purl(id), "dependsOn": sorted(purl(dep) for dep in needed[id])} for id in [root, *others]],
    }
    # The list has a number of its own, which follows from its content.
    digest = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
    bom["serialNumber"] = f"urn:uuid:{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"
    (folder / "epicker.cdx.json").write_text(json.dumps(bom, indent=1) + "\n")
    print(f"{len(others)} crates, {len(by_text)} different licence texts")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
