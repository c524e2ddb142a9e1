//! Small image files, made in code: MRC of every kind, TIFF of every layout, PNG. Shared with the fuzzer.

#![allow(missing_docs, clippy::unwrap_used, reason = "test material: the names say it, and it may panic")]

/// What an MRC file is made from; `Default` is a correct little-endian file of one 4x3 section of mode 2.
#[derive(Clone)]
pub struct Mrc {
    pub nx: i32,
    pub ny: i32,
    pub nz: i32,
    pub mode: i32,
    pub big_endian: bool,
    pub extended: Vec<u8>,
    pub exttyp: [u8; 4],
    /// Cell lengths in angstrom, x and y.
    pub cell: [f32; 2],
    pub grid: [i32; 3],
    pub axes: [i32; 3],
    pub min_max: [f32; 2],
    pub ispg: i32,
    /// Flags after IMOD's stamp.
    pub imod_flags: Option<i32>,
    pub tag: bool,
    pub stamp: [u8; 4],
    /// Pixels as they are stored.
    pub data: Vec<u8>,
}

impl Default for Mrc {
    fn default() -> Self {
        Mrc {
            nx: 4,
            ny: 3,
            nz: 1,
            mode: 2,
            big_endian: false,
            extended: Vec::new(),
            exttyp: [0; 4],
            cell: [6.0, 4.5],
            grid: [4, 3, 1],
            axes: [1, 2, 3],
            min_max: [0.0, 0.0],
            ispg: 0,
            imod_flags: None,
            tag: true,
            stamp: [0x44, 0x44, 0, 0],
            data: (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect(),
        }
    }
}

impl Mrc {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = vec![0u8; 1024];
        let mut put = |at: usize, mut bytes: [u8; 4]| {
            if self.big_endian {
                bytes.reverse();
            }
            head[at..at + 4].copy_from_slice(&bytes);
        };
        let ints = [(0, self.nx), (4, self.ny), (8, self.nz), (12, self.mode), (88, self.ispg), (92, self.extended.len() as i32)];
        ints.into_iter().for_each(|(at, value)| put(at, value.to_le_bytes()));
        (0..3).for_each(|i| put(28 + 4 * i, self.grid[i].to_le_bytes()));
        (0..3).for_each(|i| put(64 + 4 * i, self.axes[i].to_le_bytes()));
        (0..2).for_each(|i| put(40 + 4 * i, self.cell[i].to_le_bytes()));
        (0..2).for_each(|i| put(76 + 4 * i, self.min_max[i].to_le_bytes()));
        if let Some(flags) = self.imod_flags {
            put(152, *b"IMOD");
            put(156, flags.to_le_bytes());
        }
        head[104..108].copy_from_slice(&self.exttyp);
        if self.tag {
            head[208..212].copy_from_slice(b"MAP ");
        }
        head[212..216].copy_from_slice(&self.stamp);
        [&head[..], &self.extended, &self.data].concat()
    }
}

/// How the pixels of a TIFF lie.
#[derive(Clone, Copy, PartialEq)]
pub enum Layout {
    /// Strips of this many rows.
    Strips(u32),
    /// Tiles of this side, a multiple of 16.
    Tiles(u32),
}

/// One page of an uncompressed TIFF.
#[derive(Clone)]
pub struct TiffPage {
    pub nx: u32,
    pub ny: u32,
    pub bits: u16,
    /// 1 unsigned, 2 signed, 3 float.
    pub sample_format: u16,
    /// 0 white is zero, 1 black is zero.
    pub photometric: u16,
    pub compression: u16,
    pub layout: Layout,
    /// Pixels per unit and the unit: 2 inch, 3 cm.
    pub resolution: Option<(u32, u16)>,
    /// Pixels in file order, in the byte order of the file.
    pub data: Vec<u8>,
}

/// A TIFF or BigTIFF of these pages; the data are stored as given, whatever `compression` says.
pub fn tiff(pages: &[TiffPage], big_endian: bool, big_tiff: bool) -> Vec<u8> {
    let number = |value: u64, size: usize| -> Vec<u8> {
        if big_endian { value.to_be_bytes()[8 - size..].to_vec() } else { value.to_le_bytes()[..size].to_vec() }
    };
    let offset_len = if big_tiff { 8 } else { 4 };
    let mut file = if big_endian { b"MM".to_vec() } else { b"II".to_vec() };
    file.extend(number(if big_tiff { 43 } else { 42 }, 2));
    if big_tiff {
        file.extend(number(8, 2));
        file.extend(number(0, 2));
    }
    let mut link_at = file.len();
    file.extend(number(0, offset_len));
    for page in pages {
        let bytes_per_pixel = usize::from(page.bits / 8).max(1);
        let (parts, part_tags) = cut(page, bytes_per_pixel);
        let mut offsets = Vec::new();
        for part in &parts {
            offsets.push(file.len() as u64);
            file.extend(part);
        }
        let counts: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
        let long = if big_tiff { 16 } else { 4 };
        let mut entries: Vec<(u16, u16, Vec<u64>)> = vec![
            (256, 4, vec![u64::from(page.nx)]),
            (257, 4, vec![u64::from(page.ny)]),
            (258, 3, vec![u64::from(page.bits)]),
            (259, 3, vec![u64::from(page.compression)]),
            (262, 3, vec![u64::from(page.photometric)]),
            (277, 3, vec![1]),
            (339, 3, vec![u64::from(page.sample_format)]),
        ];
        match page.layout {
            Layout::Strips(_) => entries.extend([(273, long, offsets), (279, long, counts)]),
            Layout::Tiles(_) => entries.extend([(324, long, offsets), (325, long, counts)]),
        }
        entries.extend(part_tags.into_iter().map(|(tag, value)| (tag, 4, vec![value])));
        if let Some((per_unit, unit)) = page.resolution {
            entries.extend([(282, 5, vec![u64::from(per_unit), 1]), (296, 3, vec![u64::from(unit)])]);
        }
        entries.sort_by_key(|entry| entry.0);
        let mut directory = number(entries.len() as u64, if big_tiff { 8 } else { 2 });
        for (tag, kind, values) in entries {
            let size = match kind {
                3 => 2,
                16 => 8,
                _ => 4,
            };
            let mut data: Vec<u8> = values.iter().flat_map(|&value| number(value, size)).collect();
            if data.len() > offset_len {
                let at = file.len() as u64;
                file.extend(&data);
                data = number(at, offset_len);
            }
            data.resize(offset_len, 0);
            directory.extend(number(u64::from(tag), 2));
            directory.extend(number(u64::from(kind), 2));
            directory.extend(number(if kind == 5 { 1 } else { values.len() as u64 }, offset_len));
            directory.extend(data);
        }
        let at = file.len() as u64;
        file.splice(link_at..link_at + offset_len, number(at, offset_len));
        file.extend(directory);
        link_at = file.len();
        file.extend(number(0, offset_len));
    }
    file
}

/// The strips or tiles of a page, and the tags that tell their sizes.
fn cut(page: &TiffPage, bytes_per_pixel: usize) -> (Vec<Vec<u8>>, Vec<(u16, u64)>) {
    let row = page.nx as usize * bytes_per_pixel;
    match page.layout {
        Layout::Strips(rows) => (page.data.chunks(row * rows as usize).map(<[u8]>::to_vec).collect(), vec![(278, u64::from(rows))]),
        Layout::Tiles(side) => {
            let side = side as usize;
            let mut tiles = Vec::new();
            for top in (0..page.ny as usize).step_by(side) {
                for left in (0..page.nx as usize).step_by(side) {
                    let mut tile = vec![0; side * side * bytes_per_pixel];
                    for y in 0..side.min(page.ny as usize - top) {
                        let width = side.min(page.nx as usize - left) * bytes_per_pixel;
                        let from = (top + y) * row + left * bytes_per_pixel;
                        tile[y * side * bytes_per_pixel..][..width].copy_from_slice(&page.data[from..from + width]);
                    }
                    tiles.push(tile);
                }
            }
            (tiles, vec![(322, side as u64), (323, side as u64)])
        }
    }
}

/// A compressed TIFF of 8-bit values, made by the encoder of the `tiff` crate.
pub fn compressed_tiff(nx: u32, ny: u32, data: &[u8], compression: tiff::encoder::Compression) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut file).unwrap().with_compression(compression);
    encoder.write_image::<tiff::encoder::colortype::Gray8>(nx, ny, data).unwrap();
    file.into_inner()
}

/// A PNG of these bytes (16-bit samples big-endian).
pub fn png(nx: u32, ny: u32, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, nx, ny);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette((0..=255u8).flat_map(|i| [i, 255 - i, i / 2]).collect::<Vec<u8>>());
    }
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(data).unwrap();
    writer.finish().unwrap();
    file
}

/// gzip around these bytes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// bzip2 around these bytes.
pub fn bzip2(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
