//! Targets: structures and density maps that `epicker simulate` shows. A file that can be read must give a particle that can be
//! drawn: it is finite, has weight, and lies around its centre.

use crate::Target;
use crate::images::image_files::{Mrc, gzip};
use epicker::formats::image::FileBytes;
use epicker::simulate::density::{Density, read_bytes};

/// One target for each format.
pub const TARGETS: &[Target] = &[
    Target { name: "density_pdb", run: |bytes| check("a.pdb", bytes), seeds: pdb_seeds, text: true, memory_factor: 64 },
    Target { name: "density_cif", run: |bytes| check("a.cif", bytes), seeds: cif_seeds, text: true, memory_factor: 64 },
    Target { name: "density_xyz", run: |bytes| check("a.xyz", bytes), seeds: xyz_seeds, text: true, memory_factor: 64 },
    Target { name: "density_map", run: |bytes| check("a.mrc", bytes), seeds: map_seeds, text: false, memory_factor: 128 },
    Target { name: "density_file", run: from_file, seeds: packed_seeds, text: false, memory_factor: 2064 },
];

fn check(name: &str, bytes: &[u8]) {
    let Ok(density) = read_bytes(name, FileBytes::Owned(bytes.to_vec())) else { return };
    is_sound(&density);
}

/// Reads the bytes from a file, as a user would give it, under every name in turn.
fn from_file(bytes: &[u8]) {
    let name = ["a.pdb.gz", "a.cif.gz", "a.xyz.gz", "a.mrc.gz", "a.mrc", "a.txt"][bytes.len() % 6];
    let path = std::env::temp_dir().join(format!("epicker-fuzz-{}-{name}", std::process::id()));
    if std::fs::write(&path, bytes).is_ok() {
        if let Ok(density) = epicker::simulate::density::read(&path) {
            is_sound(&density);
        }
        let _ = std::fs::remove_file(&path);
    }
}

fn is_sound(density: &Density) {
    let electrons = density.electrons();
    assert!(electrons.is_finite() && electrons > 0.0, "{electrons} electrons");
    let diameter = density.diameter_angstrom();
    assert!(diameter.is_finite() && diameter > 0.0 && density.spread_angstrom.is_finite(), "a diameter of {diameter}");
    assert!(!density.beads.is_empty() && density.beads.len() <= 40_000, "{} beads", density.beads.len());
    for bead in &density.beads {
        assert!(bead.at.iter().all(|x| x.is_finite()) && bead.electrons.is_finite() && bead.electrons >= 0.0, "{bead:?}");
    }
    if let Some(helix) = density.helix {
        assert!(helix.twist_degrees.is_finite() && helix.rise_angstrom.is_finite() && helix.rise_angstrom > 0.0, "{helix:?}");
    } else {
        for axis in 0..3 {
            let sum: f64 = density.beads.iter().map(|bead| f64::from(bead.electrons) * f64::from(bead.at[axis])).sum();
            // Thinning keeps some beads of many, whose centre is a little off.
            assert!(density.beads.len() > 10_000 || (sum / electrons).abs() < 0.1 * diameter, "off its centre by {}", sum / electrons);
        }
    }
}

fn atoms(names: &[&str], b: f64) -> String {
    let line = |(i, name): (usize, &&str)| {
        let x = i as f64 * 3.7 - 5.0;
        let element = name.trim_start_matches(|c: char| c.is_ascii_digit()).get(..1).unwrap_or("C");
        format!(
            "ATOM  {:>5} {name:^4} ALA A{:>4}    {x:>8.3}{:>8.3}{:>8.3}  1.00{b:>6.2}          {element:>2}\n",
            i + 1,
            i + 1,
            -x,
            2.0 * x
        )
    };
    names.iter().enumerate().map(line).collect()
}

fn pdb_seeds() -> Vec<Vec<u8>> {
    let helix = "REMARK HELIX twist_deg -166.6 rise_A 27.3 copies 3 beads_per_copy 2\n";
    let texts = [
        format!(
            "HEADER x\n{}TER\nHETATM    9  O   HOH A   9       1.000   2.000   3.000  1.00 20.00           O\nEND\n",
            atoms(&["N", "CA", "C", "O", "1HB"], 20.0)
        ),
        format!("MODEL 1\n{}ENDMDL\nMODEL 2\n{}ENDMDL\n", atoms(&["CA", "CA"], 1.0), atoms(&["CA"], 1.0)),
        format!("REMARK beads 3 residues_per_bead 1\n{}", atoms(&["CA", "CA", "CA"], 59.0)),
        format!("{helix}{}", atoms(&["CA", "CA", "CA", "CA"], 59.0)),
        atoms(&["FE", "ZN", "MG", "P"], 0.0).replace('\n', "\r\n"),
    ];
    texts.map(String::into_bytes).to_vec()
}

fn cif_seeds() -> Vec<Vec<u8>> {
    let columns =
        ["group_PDB", "id", "type_symbol", "label_alt_id", "label_comp_id", "Cartn_x", "Cartn_y", "Cartn_z", "pdbx_PDB_model_num"];
    let head: String = columns.iter().map(|column| format!("_atom_site.{column}\n")).collect();
    let rows = "ATOM 1 N . ALA 1.0 2.0 3.0 1\nATOM 2 C A ALA -1.5 2.0 3.0 1\nATOM 3 C B ALA -1.5 2.0 3.5 1\nHETATM 4 O . HOH 9 9 9 1\nATOM 5 S . CYS 4e1 -2.0 .5 2\n";
    [format!("data_x\nloop_\n{head}{rows}#\n"), format!("data_y\n{head}ATOM 1 FE ? HEM 1 1 1 1\n")].map(String::into_bytes).to_vec()
}

fn xyz_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "# beads\n1 2 3 59\n-4 5e1 .5 30\n0 0 0 1\n",
        "# HELIX twist_deg 30 rise_A 10 copies 2 beads_per_copy 1\n20 0 -5 50\n17 10 5 50\n",
        "1 2 3 1e-30\n99999 0 0 1e9\n",
        "1\t2\t3\t4\r\n5\t6\t7\t8\r\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn map_seeds() -> Vec<Vec<u8>> {
    let base = Mrc::default();
    let values: Vec<u8> = (0..24).flat_map(|i| (((i * 7) % 11) as f32 - 2.0).to_le_bytes()).collect();
    let of = |mode, data: &[u8]| Mrc { nx: 4, ny: 3, nz: 2, mode, data: data.to_vec(), ..base.clone() };
    [of(2, &values), of(1, &values[..48]), of(0, &values[..24]), of(12, &values[..48])].iter().map(Mrc::bytes).collect()
}

fn packed_seeds() -> Vec<Vec<u8>> {
    let plain = [pdb_seeds(), cif_seeds(), xyz_seeds(), map_seeds()].concat();
    // The name follows from the length, so every file comes with several lengths.
    plain.iter().flat_map(|bytes| (0..6).map(|more| [gzip(bytes), vec![0; more]].concat()).collect::<Vec<_>>()).chain(map_seeds()).collect()
}
