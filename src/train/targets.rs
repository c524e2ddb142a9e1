//! What the network is to answer for a batch of images.

/// One labelled object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Which image of the batch.
    pub image: usize,
    /// Row-major index of its pixel in the heat map of that image.
    pub index: usize,
    /// Offset of its centre from that pixel, x then y, heat map pixels.
    pub offset: [f32; 2],
    /// Width and height, heat map pixels.
    pub size: [f32; 2],
}

/// The targets of a batch. Frame H.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Targets {
    /// (n, h, w): 1 exactly at the objects' pixels, less around them, 0 elsewhere.
    pub heat_map: Vec<f32>,
    /// All objects of all images; several may share a pixel.
    pub objects: Vec<Object>,
}
