use ndarray::{ArcArray, Array4, Ix3, Ix4};
use rayon::prelude::*;

use crate::memory::fresh;
use crate::planes::planes;

/// The images of a [`Batch`](crate::Batch). Pixels become real numbers no sooner than somebody reads those: as bytes they are a
/// quarter as long on their way to a device, and nothing is done to them that decoders have not done.
#[derive(Clone, Debug, PartialEq)]
pub enum Images {
    /// `[B, C, H, W]`.
    Values(ArcArray<f32, Ix4>),
    /// RGB images as decoders write them.
    Pixels {
        /// `[B, H, W]`.
        pixels: ArcArray<[u8; 3], Ix3>,
        /// The value of a byte v is 2 v/255 − 1 times this.
        scale: f32,
    },
}

impl Images {
    /// B, C, H and W.
    pub fn dim(&self) -> [usize; 4] {
        match self {
            Self::Values(values) => values.dim().into(),
            Self::Pixels { pixels, .. } => {
                let (rows, height, width) = pixels.dim();
                [rows, 3, height, width]
            }
        }
    }

    /// The images as real numbers, `[B, C, H, W]`, in [−1, 1] where they are not scaled. Where they are pixels this takes all
    /// threads of the current rayon pool and new memory each time; [`values_to`](Self::values_to) takes the same again.
    pub fn values(&self) -> ArcArray<f32, Ix4> {
        match self {
            Self::Values(values) => values.clone(),
            Self::Pixels { .. } => {
                let mut values = fresh(self.dim().iter().product());
                self.values_to(&mut values);
                let values = Array4::from_shape_vec(self.dim(), values);
                values.expect("there are as many values as colours").into_shared()
            }
        }
    }

    /// Writes the images to `out` as real numbers, in the order of `[B, C, H, W]`, in place of what is there.
    pub fn values_to(&self, out: &mut Vec<f32>) {
        match self {
            Self::Values(values) => {
                out.clear();
                out.extend(values);
            }
            Self::Pixels { pixels, scale } => {
                let (rows, height, width) = pixels.dim();
                // An image without pixels has no values either.
                let image = (height * width).max(1);
                out.resize(rows * 3 * height * width, 0.0);
                let pixels = pixels.as_standard_layout();
                let pixels = pixels.as_slice().expect("the standard layout is that of a slice");
                out.par_chunks_mut(3 * image).zip(pixels.par_chunks(image)).for_each(|(values, pixels)| {
                    planes(pixels, values);
                    if *scale != 1.0 {
                        values.iter_mut().for_each(|value| *value *= scale);
                    }
                });
            }
        }
    }

    /// [`values`](Self::values), without a copy of them where nobody else has them.
    pub fn into_values(self) -> ArcArray<f32, Ix4> {
        match self {
            Self::Values(values) => values,
            Self::Pixels { .. } => self.values(),
        }
    }

    /// Makes them [`values`](Self::values) from now on, to be changed one by one.
    pub fn make_values(&mut self) -> &mut ArcArray<f32, Ix4> {
        if let Self::Pixels { .. } = self {
            *self = Self::Values(self.values());
        }
        match self {
            Self::Values(values) => values,
            Self::Pixels { .. } => unreachable!("they are values now"),
        }
    }

    /// Multiplies them.
    pub(crate) fn multiply(&mut self, by: f32) {
        if by != 1.0 {
            match self {
                Self::Values(values) => *values *= by,
                Self::Pixels { scale, .. } => *scale *= by,
            }
        }
    }
}
