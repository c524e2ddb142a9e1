//! Which pick found which label: one to one, greedy by score, by the distance of centres.

/// A labelled object: a disc.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disc {
    /// Column of the centre, micrograph pixels.
    pub x: f64,
    /// Row of the centre, micrograph pixels.
    pub y: f64,
    /// Radius, micrograph pixels.
    pub radius: f64,
}

/// A pick as it is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Column of the centre, micrograph pixels.
    pub x: f64,
    /// Row of the centre, micrograph pixels.
    pub y: f64,
    /// The score; picks with better scores are matched first.
    pub score: f32,
    /// Radius, micrograph pixels, where the pick has a size of its own.
    pub radius: Option<f64>,
}

/// What became of a pick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It found this label, at this distance (micrograph pixels).
    Hit {
        /// Index of the label.
        label: usize,
        /// Distance of the centres, micrograph pixels.
        distance: f64,
    },
    /// It found nothing, or only a label that a better pick had found.
    Miss {
        /// True if it lies on a label that was already found.
        duplicate: bool,
    },
    /// It lies in the band along the border, or on a label that does.
    Ignored,
}

/// How picks are matched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Largest distance of the centres, in radii of the label.
    pub reach: f64,
    /// Width of the band along the border that is ignored, in radii.
    pub border: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Rule { reach: 0.5, border: 1.0 }
    }
}

/// The picks and labels of one micrograph, matched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matched {
    /// What became of each pick, in the order of the picks.
    pub outcomes: Vec<Outcome>,
    /// How many labels count: those outside of the band.
    pub labels: usize,
    /// For each label, whether it lies in the band and is ignored.
    pub ignored: Vec<bool>,
}

/// Matches the picks of one micrograph with its labels.
///
/// Each pick, best first (equal scores in their order), takes the nearest free label within reach. Labels in the band
/// count neither way and absorb picks; a pick in the band counts only if it finds a label outside of it. `size` is
/// columns and rows of the micrograph; without it there is no band. `radius` is that of picks without their own.
pub fn match_picks(labels: &[Disc], picks: &[Candidate], size: Option<[usize; 2]>, radius: f64, rule: &Rule) -> Matched {
    let in_band = |x: f64, y: f64, radius: f64| {
        let Some([nx, ny]) = size else { return false };
        let band = rule.border * radius;
        x < band || y < band || x > nx as f64 - 1.0 - band || y > ny as f64 - 1.0 - band
    };
    let ignored: Vec<bool> = labels.iter().map(|label| in_band(label.x, label.y, label.radius)).collect();
    let mut order: Vec<usize> = (0..picks.len()).collect();
    order.sort_by(|&a, &b| picks[b].score.total_cmp(&picks[a].score)); // stable
    let mut is_found = vec![false; labels.len()];
    let mut outcomes = vec![Outcome::Ignored; picks.len()];
    for pick_index in order {
        let pick = &picks[pick_index];
        let (mut nearest, mut on_found, mut on_ignored) = (None, false, false);
        for (i, label) in labels.iter().enumerate() {
            let distance = (pick.x - label.x).hypot(pick.y - label.y);
            if distance > rule.reach * label.radius {
                continue;
            }
            match (ignored[i], is_found[i]) {
                (true, _) => on_ignored = true,
                (false, true) => on_found = true,
                (false, false) if nearest.is_none_or(|(_, least)| distance < least) => nearest = Some((i, distance)),
                (false, false) => {}
            }
        }
        outcomes[pick_index] = match nearest {
            Some((label, distance)) => {
                is_found[label] = true;
                Outcome::Hit { label, distance }
            }
            None if on_ignored || in_band(pick.x, pick.y, pick.radius.unwrap_or(radius)) => Outcome::Ignored,
            None => Outcome::Miss { duplicate: on_found },
        };
    }
    Matched { outcomes, labels: ignored.iter().filter(|ignored| !**ignored).count(), ignored }
}
