//! Which pixel size is the micrograph's. This is the one place that decides it, and every command asks here.
//!
//! A project is full of pixel sizes, and few of them are the micrograph's: particles are extracted with a pixel size of their
//! own, and a movie in super-resolution has pixels half as large as those of the micrograph that is made of it. If a shift in
//! angstrom is divided by the wrong pixel size, the particle ends up beside its true place, and nothing looks wrong. So each
//! reader says whose pixel size a number is, and only this file decides which of them is believed.
//! Source: docs/formats.md, "Pixel size".

/// What a file says of pixel sizes, angstrom per pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stated {
    /// The size of the micrograph's pixels.
    pub micrograph: Option<f64>,
    /// A size of something else, the particles' or the movie's, and the label that states it. It equals the
    /// micrograph's only if nothing was rescaled.
    pub other: Option<(f64, &'static str)>,
}

impl Stated {
    /// A size that is known to be the micrograph's.
    pub fn micrograph(size: Option<f64>) -> Self {
        Stated { micrograph: size, other: None }
    }

    /// The sizes stated here, with those from `more` that are missing here.
    pub fn or(self, more: Stated) -> Self {
        Stated { micrograph: self.micrograph.or(more.micrograph), other: self.other.or(more.other) }
    }
}

/// All that is said of the pixel size of one micrograph, and by whom; angstrom per pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    /// What the user says with `--angpix`.
    pub given: Option<f64>,
    /// What the coordinate file says.
    pub label: Stated,
    /// What the list of micrographs says.
    pub list: Stated,
    /// What the header of the micrograph says.
    pub header: Option<f64>,
}

/// Where a pixel size comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// The user, with `--angpix`.
    Given,
    /// `rlnMicrographPixelSize` of the coordinate file.
    Label,
    /// The list of micrographs.
    List,
    /// The header of the micrograph.
    Header,
    /// The size of something else, which this label states. It is right only if nothing was rescaled.
    Other(&'static str),
    /// A header that says exactly 1 angstrom. Programs that do not know the pixel size write that.
    HeaderOfOne,
}

/// The pixel size of a micrograph, and why it is believed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelSize {
    /// Angstrom per pixel.
    pub angstrom: f64,
    /// Where it comes from.
    pub source: Source,
}

impl Evidence {
    /// The pixel size of the micrograph: the first that is known of `--angpix`, the coordinate file's
    /// `rlnMicrographPixelSize`, the list's, and the header's unless it is exactly 1. Without any of them it is a size of
    /// something else, and last a header's 1.
    pub fn decide(&self) -> Option<PixelSize> {
        let (ones, header): (Option<f64>, Option<f64>) = if self.header == Some(1.0) { (self.header, None) } else { (None, self.header) };
        let from = |size: Option<f64>, source| size.map(|angstrom| PixelSize { angstrom, source });
        from(self.given, Source::Given)
            .or(from(self.label.micrograph, Source::Label))
            .or(from(self.list.micrograph, Source::List))
            .or(from(header, Source::Header))
            // A list of micrographs has no particles, so the other size that it states is the movie's. That is the better
            // guess.
            .or(self.list.other.or(self.label.other).map(|(angstrom, label)| PixelSize { angstrom, source: Source::Other(label) }))
            .or(from(ones, Source::HeaderOfOne))
    }

    /// The size in angstrom per pixel that [`Evidence::decide`] believes.
    pub fn angstrom(&self) -> Option<f64> {
        self.decide().map(|size| size.angstrom)
    }

    /// What the user should know about the decision: that it is a guess, or that two files disagree.
    pub fn doubt(&self) -> Option<String> {
        let differ = |a: f64, b: f64| (a - b).abs() > 0.01 * a.max(b);
        match (self.decide()?, self.list.micrograph) {
            (PixelSize { angstrom, source: Source::Label }, Some(list)) if differ(angstrom, list) => Some(format!(
                "the coordinate file says that the micrographs have {angstrom} A per pixel, their list says {list} A; the coordinate file \
                 is believed; if that is wrong, give the pixel size with --angpix"
            )),
            (size, _) => size.doubt(),
        }
    }
}

impl PixelSize {
    /// True if the number was stated as the pixel size of the micrograph by somebody who knew it.
    pub fn is_certain(&self) -> bool {
        self.doubt().is_none()
    }

    /// What the user should know about a size that may be that of something else.
    pub fn doubt(&self) -> Option<String> {
        let angstrom = self.angstrom;
        match self.source {
            Source::Other(label) => Some(format!(
                "nothing states the pixel size of the micrographs, so {angstrom} A of {label} is taken, which is that of particles or of \
                 movies; if they were rescaled, give the micrographs' own with --angpix"
            )),
            Source::HeaderOfOne => Some(
                "the header says exactly 1 A per pixel, which programs write that do not know it; if it is another, give it with --angpix"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_is_believed_before_all_that_follow_it() {
        let other = |size, label| Stated { micrograph: None, other: Some((size, label)) };
        let mut evidence = Evidence {
            given: Some(1.0),
            label: Stated { micrograph: Some(2.0), other: Some((6.0, "rlnImagePixelSize")) },
            list: Stated { micrograph: Some(3.0), other: Some((5.0, "rlnMicrographOriginalPixelSize")) },
            header: Some(4.0),
        };
        let next = |evidence: &Evidence| evidence.decide().map(|size| (size.angstrom, size.source));
        assert_eq!(next(&evidence), Some((1.0, Source::Given)));
        evidence.given = None;
        assert_eq!(next(&evidence), Some((2.0, Source::Label)));
        evidence.label.micrograph = None;
        assert_eq!(next(&evidence), Some((3.0, Source::List)));
        evidence.list.micrograph = None;
        assert_eq!(next(&evidence), Some((4.0, Source::Header)));
        evidence.header = Some(1.0);
        assert_eq!(next(&evidence), Some((5.0, Source::Other("rlnMicrographOriginalPixelSize"))));
        evidence.list = Stated::default();
        assert_eq!(next(&evidence), Some((6.0, Source::Other("rlnImagePixelSize"))));
        evidence.label = Stated::default();
        assert_eq!(next(&evidence), Some((1.0, Source::HeaderOfOne)));
        evidence.header = None;
        assert_eq!(next(&evidence), None);
        assert_eq!(other(1.0, "a").or(other(2.0, "b")).other, Some((1.0, "a")));
    }

    #[test]
    fn guesses_and_contradictions_are_told_and_nothing_else() {
        let label = Stated { micrograph: None, other: Some((3.32, "rlnImagePixelSize")) };
        let guess = Evidence { label, ..Evidence::default() };
        assert!(guess.doubt().is_some_and(|text| text.contains("rlnImagePixelSize") && text.contains("--angpix")));
        assert_eq!(Evidence { header: Some(0.83), ..guess }.doubt(), None);
        let two = Evidence { label: Stated::micrograph(Some(0.83)), list: Stated::micrograph(Some(1.66)), ..Evidence::default() };
        assert!(two.doubt().is_some_and(|text| text.contains("0.83") && text.contains("1.66")));
        assert_eq!(Evidence { list: Stated::micrograph(Some(0.8301)), ..two }.doubt(), None);
        assert_eq!(Evidence { given: Some(2.0), ..two }.doubt(), None);
    }
}
