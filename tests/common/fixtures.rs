//! Stored results of the original's pick script. tests/golden/README.md tells how they were made.

use epicker::pick::decode::BoxD;
use epicker::preprocess::geometry::Geometry;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A file of tests/golden/pick.
pub fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pick").join(name)
}

/// Its bytes.
pub fn golden(name: &str) -> Vec<u8> {
    let path = golden_path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Detections before threshold, border and distance tests.
pub struct Raw {
    /// All peaks among the best 2000, in pixels of the 1024-wide image.
    pub results: Vec<BoxD>,
    /// Corners of the first of them in heat-map pixels.
    pub heat_map: Vec<[f32; 4]>,
}

/// Detections of micrograph a, b, c or d.
pub fn raw(letter: &str) -> Raw {
    let bytes = golden(&format!("raw_{letter}.safetensors"));
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let rows = |name: &str| -> Vec<Vec<f32>> {
        let tensor = tensors.tensor(name).unwrap();
        let values: Vec<f32> = tensor.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        values.chunks(tensor.shape()[1]).map(<[f32]>::to_vec).collect()
    };
    let corners = |row: &Vec<f32>| [row[0], row[1], row[2], row[3]];
    let results = rows("results_f32");
    Raw {
        results: results.iter().map(|row| BoxD { corners: corners(row), score: row[4] }).collect(),
        heat_map: rows("dets_heatmap_f32").iter().map(corners).collect(),
    }
}

/// One call of the original's pick script.
pub struct Run {
    /// Its options.
    pub args: Vec<String>,
    /// Micrographs it picked: a, b, c, d.
    pub micrographs: Vec<String>,
    /// Files it wrote besides merge_results.thi.
    pub files: Vec<String>,
}

impl Run {
    /// The value of an option.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.args.iter().position(|arg| arg == name).map(|i| self.args[i + 1].as_str())
    }
}

/// A micrograph of the runs: how to make it.
pub struct MicrographRecipe {
    /// Stem of the file.
    pub name: String,
    /// int8, int16 or f32.
    pub kind: String,
    /// Columns and rows.
    pub size: [usize; 2],
    /// x, y, radius, amplitude.
    pub blobs: Vec<[i64; 4]>,
    /// SHA-256 of the MRC file.
    pub sha256: String,
}

/// All runs and their micrographs.
pub struct Runs {
    /// By the letters a, b, c, d.
    pub micrographs: BTreeMap<String, MicrographRecipe>,
    /// By name.
    pub runs: BTreeMap<String, Run>,
}

impl Runs {
    /// Frames of a micrograph.
    pub fn geometry(&self, letter: &str) -> Geometry {
        let [nx, ny] = self.micrographs[letter].size;
        Geometry::new(nx, ny, 1024)
    }
}

/// runs.json.
pub fn runs() -> &'static Runs {
    static RUNS: OnceLock<Runs> = OnceLock::new();
    RUNS.get_or_init(|| {
        let json: serde_json::Value = serde_json::from_slice(&golden("runs.json")).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
        let entries = |value: &serde_json::Value| value.as_object().unwrap().clone().into_iter();
        let micrograph = |(letter, value): (String, serde_json::Value)| {
            let side = |key: &str| value[key].as_u64().unwrap() as usize;
            let recipe = MicrographRecipe {
                name: text(&value["name"]),
                kind: text(&value["kind"]),
                size: [side("W"), side("H")],
                blobs: serde_json::from_value(value["blobs_x_y_R_A"].clone()).unwrap(),
                sha256: text(&value["sha256_mrc"]),
            };
            (letter, recipe)
        };
        let run = |(name, value): (String, serde_json::Value)| {
            let outputs = entries(&value["outputs"]).collect::<Vec<_>>();
            let files = outputs.iter().flat_map(|(_, output)| entries(&output["files"]).map(|(file, _)| file)).collect();
            let micrographs = outputs.into_iter().map(|(letter, _)| letter).collect();
            (name, Run { args: serde_json::from_value(value["args"].clone()).unwrap(), micrographs, files })
        };
        Runs { micrographs: entries(&json["micrographs"]).map(micrograph).collect(), runs: entries(&json["runs"]).map(run).collect() }
    })
}
