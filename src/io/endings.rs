//! What other programs add to the end of a micrograph's name, and to that of its coordinate file.
//!
//! An ending is recognised in upper and in lower case, because EPU has written both `_Fractions` and `_fractions`. It is never
//! a part of a file that we write; it only helps to pair names (pairing.rs). docs/formats.md, "Names", has the same table for
//! users. An ending belongs here only if a program is known to write it, because every further ending makes names alike that a
//! user keeps apart.

/// Endings of coordinate files, which say what made the file.
const OF_COORDINATES: [&str; 10] = [
    "_autopick",   // RELION, autopicker.cpp
    "_manualpick", // RELION, manualpicker.cpp
    "_extract",    // RELION, preprocessing.cpp: the particles of one micrograph
    "_topazpicks", // Topaz in RELION 3.1: coords_suffix_topazpicks.star
    "_cryolo",     // crYOLO as an External job of RELION: coords_suffix_cryolo.star
    "_automatch",  // Gautomatch, as scipion-em-gautomatch reads it (convert.py, readSetOfCoordinates)
    "_info",       // EMAN2, info/NAME_info.json (EMAN2.py, info_name)
    "_particles",  // cryoSPARC's and EMAN2's stacks of the particles of one micrograph
    "_picked",     // annotations of people, as public sets of labels have them
    "_train",      // the same, where a part was set aside
];

/// Endings of micrographs, which say what was done to the movie.
const OF_PROCESSING: [&str; 14] = [
    "_doseweighted",  // cryoSPARC, Patch Motion: after _patch_aligned
    "_patch_aligned", // cryoSPARC, Patch Motion
    "_rigid_aligned", // cryoSPARC, Full-frame Motion
    "_aligned_mic",   // Scipion, scipion-em-motioncorr (protocol_motioncorr.py, _getOutputMicName)
    "_noDW",          // RELION, motioncorr_runner.cpp
    "_DW",            // MotionCor2, and what follows its names
    "_DWS",           // MotionCor2, the sum of a part of the frames (-SumRange)
    "-a-DW",          // Appion, MotionCor2 through Leginon's database: 00002esn-a-DW
    "-DW",            // the same without the letter of the alignment
    "_Fractions",     // EPU, movies as TIFF and MRC
    "_EER",           // EPU, movies as EER
    "_frames",        // Leginon and SerialEM, movies
    ".frames",        // the same with a second extension: EMPIAR-10737
    "_intg",          // SIMPLE, motion_correct
];

/// The name without the ending of a program that picks, if it has one.
pub fn without_picking(stem: &str) -> Option<&str> {
    OF_COORDINATES.iter().find_map(|ending| strip(stem, ending)).or_else(|| without_box_net(stem))
}

/// The name without all endings of processing, if it has any.
pub fn without_processing(stem: &str) -> Option<&str> {
    let mut short = stem;
    while let Some(shorter) = OF_PROCESSING.iter().find_map(|ending| strip(short, ending)) {
        short = shorter;
    }
    (short.len() < stem.len()).then_some(short)
}

/// The name without the unique id that cryoSPARC puts in front of it: at least 15 digits (today it has 21) and `_`. A
/// shorter number may be a date and belongs to the name.
pub fn without_unique_id(stem: &str) -> Option<&str> {
    const FEWEST_DIGITS: usize = 15;
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    (digits >= FEWEST_DIGITS).then(|| stem[digits..].strip_prefix('_')).flatten()
}

/// Warp names a file after its network and the day on which that was trained: `_BoxNet2_20180602`,
/// `_BoxNet2Mask_20180918`.
fn without_box_net(stem: &str) -> Option<&str> {
    let (before, day) = stem.rsplit_once('_')?;
    let (name, network) = before.rsplit_once('_')?;
    let is_day = day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
    let is_box_net = network.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("boxnet"));
    (is_day && is_box_net && !name.is_empty()).then_some(name)
}

/// `stem` without `ending`, which may be in upper or in lower case. A stem that is nothing but the ending is left alone.
fn strip<'a>(stem: &'a str, ending: &str) -> Option<&'a str> {
    let at = stem.len().checked_sub(ending.len()).filter(|&at| at > 0)?;
    let tail = stem.get(at..)?;
    tail.eq_ignore_ascii_case(ending).then(|| &stem[..at])
}
