//! The values all coordinate formats share: points of one micrograph, in its own frame.

/// What a set of coordinates describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Centres of particles, all of one size.
    #[default]
    Particle,
    /// Centres and radii of vesicles.
    Vesicle,
    /// Vertices of fibers, in path order, with the same `group` for one fiber.
    Fiber,
}

/// Width and height of a box, in pixels of the micrograph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Full width in micrograph pixels.
    pub width: f64,
    /// Full height in micrograph pixels.
    pub height: f64,
}

impl Size {
    /// A square of side `side` (micrograph pixels).
    pub fn square(side: f64) -> Self {
        Size { width: side, height: side }
    }

    /// Radius of the vesicle this box encloses: (width + height) / 4.
    pub fn radius(self) -> f64 {
        (self.width + self.height) / 4.0
    }
}

/// One coordinate. Frame M: x is the column, y the row in file order, integers are pixel centres.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Coordinate {
    /// Column of the centre, micrograph pixels.
    pub x: f64,
    /// Row of the centre, micrograph pixels.
    pub y: f64,
    /// Score in 0..1, if the file gives one.
    pub score: Option<f32>,
    /// Box around the centre, if the file gives one (a vesicle of radius r has a square of side 2r).
    pub size: Option<Size>,
    /// Fiber the point belongs to; equal numbers are one fiber, in the order of the rows.
    pub group: Option<u32>,
}

/// All coordinates of one micrograph.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Coordinates {
    /// What the points are.
    pub kind: Kind,
    /// The points, in the order of the file.
    pub points: Vec<Coordinate>,
}
