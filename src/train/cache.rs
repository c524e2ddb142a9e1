//! Prepared images on disk, so that each micrograph is read, cropped and equalised only once for all epochs.
//!
//! An image of the cache is frame D after equalising, as 8-bit PNG. Its name holds a fingerprint of everything that it depends
//! on, so a micrograph or option that has changed never gets an old image. The folder stays below a given size, and images that
//! were used longest ago are removed first. The cache changes no result: an image that is not there is made again.

use crate::compat::{Compat, FAULTS, Fault};
use crate::formats::image::{self, Micrograph, Pixels, ReadOptions};
use crate::io::write::write_whole;
use crate::preprocess::ground::Ground;
use crate::preprocess::preprocess;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// A prepared image: frame D, equalised.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageD {
    /// Rows and columns.
    pub size: [usize; 2],
    /// Grey levels, row after row.
    pub levels: Vec<u8>,
}

/// The cache, a folder.
#[derive(Clone, Debug)]
pub struct ImageCache {
    folder: Option<PathBuf>,
    cap_bytes: u64,
    frame: usize,
    read: ReadOptions,
    ground: Ground,
    compat: Compat,
    /// Bytes of the images in the folder, as far as this cache and its clones know; `None` until it has been listed.
    used_bytes: Arc<Mutex<Option<u64>>>,
}

/// A part of every fingerprint. It is raised whenever images are prepared in another way.
const VERSION: u32 = 2;

impl ImageCache {
    /// A cache in `folder` of at most `cap_bytes`. Without a folder, or with a cap of 0, nothing is kept.
    ///
    /// Errors: the folder cannot be made.
    pub fn new(folder: Option<PathBuf>, cap_bytes: u64, frame: usize, read: ReadOptions, ground: Ground, compat: Compat) -> Result<Self> {
        let folder = folder.filter(|_| cap_bytes > 0);
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{}: the folder cannot be made; check the rights above it", folder.display()))?;
        }
        Ok(ImageCache { folder, cap_bytes, frame, read, ground, compat, used_bytes: Arc::default() })
    }

    /// The image of a micrograph, from the cache or made anew. Only when it is made there may be warnings.
    ///
    /// Errors: the micrograph cannot be read or prepared. A cache that cannot be written is no error.
    pub fn get(&self, path: &Path, warnings: &mut Vec<String>) -> Result<ImageD> {
        let kept = match &self.folder {
            Some(folder) => Some(folder.join(self.file_name(path)?)),
            None => None,
        };
        if let Some(file) = &kept
            && let Some(image) = read_kept(file, self.frame)
        {
            // The time of the file says when it was last used. In a folder that cannot be written to, the old time stays, which
            // does no harm.
            let _ = std::fs::File::options().append(true).open(file).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(image);
        }
        let micrograph = image::read_micrograph(path, &self.read)?;
        let image = self.prepare(&micrograph).with_context(|| path.display().to_string())?;
        warnings.extend(micrograph.warnings.iter().map(|warning| format!("{}: {warning}", path.display())));
        if let Some(file) = kept
            && let Err(error) = self.keep(&file, &image)
        {
            warnings.push(format!("{error:#}; going on without the cache"));
        }
        Ok(image)
    }

    /// Removes all images of the cache, and the folder if nothing else is in it. What cannot be removed stays.
    pub fn clear(&self) {
        let Some(folder) = &self.folder else { return };
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if is_ours(&entry.file_name().to_string_lossy()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let _ = std::fs::remove_dir(folder);
        *self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn prepare(&self, micrograph: &Micrograph) -> Result<ImageD> {
        let prepared = preprocess(micrograph, self.frame, self.ground, &self.compat)?;
        Ok(ImageD { size: [prepared.geometry.height_d, prepared.geometry.frame], levels: prepared.equalised })
    }

    fn file_name(&self, path: &Path) -> Result<String> {
        let metadata = std::fs::metadata(path).with_context(|| format!("{}: cannot be found", path.display()))?;
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let matters = [Fault::Narrow, Fault::IntCast, Fault::HotPixel];
        let faults: Vec<&str> =
            FAULTS.iter().filter(|(_, fault)| matters.contains(fault) && self.compat.has(*fault)).map(|(name, _)| *name).collect();
        let depends_on =
            format!("{VERSION} {whole:?} {} {changed:?} {} {:?} {:?} {faults:?}", metadata.len(), self.frame, self.read, self.ground);
        let digest = Sha256::digest(depends_on.as_bytes());
        let fingerprint: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let stem: String = crate::io::names::micrograph_stem(path).text.chars().take(100).collect();
        Ok(format!("{stem}-{fingerprint}.png"))
    }

    fn keep(&self, file: &Path, image: &ImageD) -> Result<()> {
        let bytes = grey_png(&image.levels, image.size)?;
        if bytes.len() as u64 > self.cap_bytes {
            return Ok(());
        }
        self.make_room(bytes.len() as u64)?;
        write_whole(file, &bytes)
    }

    /// Makes room for `wanted` more bytes and counts them as used. If they do not fit, the images that were used longest ago
    /// are removed; only images of this cache are touched.
    ///
    /// The folder is listed once, and again whenever it seems full. An eighth of it is then freed, so that a full cache is not
    /// listed again for every image.
    fn make_room(&self, wanted: u64) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut used = self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = used.as_mut().filter(|used| **used + wanted <= self.cap_bytes) {
            *used += wanted;
            return Ok(());
        }
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| format!("{}: cannot be listed", folder.display()))? {
            let entry = entry?;
            if is_ours(&entry.file_name().to_string_lossy())
                && let Ok(metadata) = entry.metadata()
            {
                kept.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path(), metadata.len()));
            }
        }
        kept.sort();
        let mut total: u64 = kept.iter().map(|(_, _, len)| len).sum();
        if total + wanted > self.cap_bytes {
            for (_, path, len) in kept {
                if total + wanted <= self.cap_bytes - self.cap_bytes / 8 {
                    break;
                }
                std::fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
                total -= len;
            }
        }
        *used = Some(total + wanted);
        Ok(())
    }
}

/// A name as [`ImageCache::file_name`] makes them.
fn is_ours(name: &str) -> bool {
    let fingerprint = name.strip_suffix(".png").and_then(|name| name.rsplit_once('-')).map(|(_, fingerprint)| fingerprint);
    fingerprint.is_some_and(|text| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The image in a file of the cache, if the file is whole. A damaged one is made again.
fn read_kept(file: &Path, frame: usize) -> Option<ImageD> {
    let image = read_grey(file).ok()?;
    (image.size[1] == frame).then_some(image)
}

/// Reads a picture as grey levels of 8 bits.
///
/// Errors: the file cannot be read, or has other than 8 bits of grey or colour.
pub fn read_grey(file: &Path) -> Result<ImageD> {
    let picture = image::read_micrograph(file, &ReadOptions::default())?;
    let levels = match &picture.pixels {
        Pixels::U8(levels) => levels.to_vec(),
        Pixels::F32(luma) => luma.iter().map(|&value| value.round().clamp(0.0, 255.0) as u8).collect(),
        other => anyhow::bail!("{}: pixels are {}; expected 8 bits; convert the picture", file.display(), other.type_name()),
    };
    Ok(ImageD { size: [picture.ny, picture.nx], levels })
}

/// Grey levels as PNG.
///
/// Errors: the levels do not fill [h, w], or the picture is too large for a PNG.
pub fn grey_png(levels: &[u8], [h, w]: [usize; 2]) -> Result<Vec<u8>> {
    ensure!(levels.len() == h * w, "picture: {} pixels; expected {w} x {h}", levels.len());
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, u32::try_from(w)?, u32::try_from(h)?);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().context("picture: cannot be encoded")?;
    writer.write_image_data(levels).context("picture: cannot be encoded")?;
    writer.finish().context("picture: cannot be encoded")?;
    Ok(bytes)
}
