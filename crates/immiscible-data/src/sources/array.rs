//! What `npy` and `npz` have in common: images as one array that NumPy saved, read from where it lies.

use std::io::Seek;
use std::path::{Path, PathBuf};

use half::f16;

use super::encoded::Labels;
use super::numbered;
use crate::bytes::Bytes;
use crate::npy::header::Header;
use crate::source::check_request;
use crate::{DataError, DataOptions, Layout, Source};

/// The numbers that are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    U8,
    F16,
    F32,
    F64,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// Images in an array `[N, C, H, W]`, `[N, H, W, C]` or `[N, H, W]`.
#[derive(Debug)]
pub(crate) struct Images {
    path: PathBuf,
    kind: Kind,
    big_endian: bool,
    layout: Layout,
    pub(crate) len: usize,
    shape: [usize; 3],
    /// Values that become −1 and 1.
    range: [f64; 2],
    /// Where the values begin.
    start: u64,
}

impl Images {
    /// Reads the header of `bytes`, which must then hold the values that it promises and no more.
    pub(crate) fn open(bytes: &Bytes, path: &Path, options: &DataOptions) -> Result<Self, DataError> {
        let mut reader = bytes.reader();
        let header = Header::read(&mut reader, path)?;
        let start = reader.stream_position().map_err(|source| DataError::Io { path: path.into(), source })?;
        let kind = match header.code() {
            "u1" => Kind::U8,
            "f2" => Kind::F16,
            "f4" => Kind::F32,
            "f8" => Kind::F64,
            _ => return Err(header.type_error(path, "uint8, float16, float32 or float64")),
        };
        let format = |reason: String| DataError::Format { path: path.into(), reason };
        if header.fortran_order && header.shape.len() > 1 {
            return Err(format("holds its values in Fortran order; save np.ascontiguousarray of it".into()));
        }
        let promised = (header.count(path, kind.size())? * kind.size()) as u64;
        let found = bytes.len() - start;
        if found != promised {
            return Err(format(format!("has {found} bytes of values where its header promises {promised}")));
        }
        let range = match options.range {
            Some([low, high]) if !(low.is_finite() && high.is_finite() && low < high) => {
                return Err(DataError::Range { low, high });
            }
            Some(range) => range,
            None if kind == Kind::U8 => [0.0, 255.0],
            None => return Err(DataError::NoRange { path: path.into(), found: header.code().into() }),
        };
        let (layout, len, shape) = axes(path, &header.shape, options.layout)?;
        if len == 0 || shape.contains(&0) {
            return Err(format(format!("has the shape {:?} and so no values", header.shape)));
        }
        let big_endian = header.big_endian();
        Ok(Self { path: path.into(), kind, big_endian, layout, len, shape, range, start })
    }

    /// Image `index`, in [−1, 1].
    fn read(&self, bytes: &Bytes, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        let size = self.kind.size();
        let mut raw = vec![0; out.len() * size];
        let at = self.start + (index * raw.len()) as u64;
        bytes.read_at(at, &mut raw).map_err(|source| DataError::Io { path: self.path.clone(), source })?;
        if self.big_endian {
            raw.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        match self.kind {
            Kind::U8 => self.scale(raw.iter().map(|&v| v.into()), index, out),
            Kind::F16 => {
                self.scale(raw.as_chunks().0.iter().map(|&v| f16::from_le_bytes(v).into()), index, out)
            }
            Kind::F32 => {
                self.scale(raw.as_chunks().0.iter().map(|&v| f32::from_le_bytes(v).into()), index, out)
            }
            Kind::F64 => self.scale(raw.as_chunks().0.iter().map(|&v| f64::from_le_bytes(v)), index, out),
        }
    }

    fn scale(
        &self,
        values: impl Iterator<Item = f64>,
        index: usize,
        out: &mut [f32],
    ) -> Result<(), DataError> {
        let [low, high] = self.range;
        let [channels, height, width] = self.shape;
        let half = (high - low) / 2.0;
        for (at, value) in values.enumerate() {
            if !(low..=high).contains(&value) {
                return Err(DataError::NpyValue {
                    path: self.path.clone(),
                    index: vec![index, at],
                    value: value.to_string(),
                    outside: "outside `range`, at that place of that image; mend it, or widen the range",
                });
            }
            let to = match self.layout {
                Layout::Nchw => at,
                Layout::Nhwc => at % channels * (height * width) + at / channels,
            };
            out[to] = ((value - low) / half - 1.0) as f32;
        }
        Ok(())
    }
}

/// Which axis is what: the layout, the number of images, and `[C, H, W]`.
fn axes(
    path: &Path,
    shape: &[usize],
    layout: Option<Layout>,
) -> Result<(Layout, usize, [usize; 3]), DataError> {
    let &[n, a, b, c] = shape else {
        return match *shape {
            [n, h, w] => Ok((Layout::Nchw, n, [1, h, w])),
            _ => Err(DataError::NpyShape {
                path: path.into(),
                shape: shape.into(),
                wanted: "[N, C, H, W], [N, H, W, C] or [N, H, W]",
            }),
        };
    };
    let channels = |count| [1, 3, 4].contains(&count);
    match layout {
        Some(Layout::Nchw) => Ok((Layout::Nchw, n, [a, b, c])),
        Some(Layout::Nhwc) => Ok((Layout::Nhwc, n, [c, a, b])),
        None if channels(a) && !channels(c) => Ok((Layout::Nchw, n, [a, b, c])),
        None if channels(c) && !channels(a) => Ok((Layout::Nhwc, n, [c, a, b])),
        None => Err(DataError::NoLayout { path: path.into(), shape: shape.into() }),
    }
}

/// A data set of such an array, with labels or without.
pub(crate) struct Array {
    name: String,
    images: Images,
    bytes: Bytes,
    labels: Option<Labels>,
}

impl Array {
    pub(crate) fn new(
        options: &DataOptions,
        images: Images,
        bytes: Bytes,
        labels: Option<(PathBuf, Vec<u32>)>,
    ) -> Result<Self, DataError> {
        let labels = labels.map(|(path, labels)| {
            if labels.len() != images.len {
                let (images_path, count) = (images.path.clone(), images.len);
                let (labels_path, labels) = (path, labels.len());
                return Err(DataError::FileCounts { images_path, images: count, labels_path, labels });
            }
            let classes = numbered(&path, labels.iter().copied())?;
            Ok((labels, classes))
        });
        Ok(Self { name: options.name.clone(), images, bytes, labels: labels.transpose()? })
    }
}

impl Source for Array {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.images.len
    }

    fn shape(&self) -> [usize; 3] {
        self.images.shape
    }

    fn classes(&self) -> Option<&[String]> {
        self.labels.as_ref().map(|(_, classes)| classes.as_slice())
    }

    fn holds_real_numbers(&self) -> bool {
        self.images.kind != Kind::U8
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.0.get(index).copied()
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        check_request(self, index, out)?;
        self.images.read(&self.bytes, index, out)
    }
}
