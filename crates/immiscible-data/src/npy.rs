//! Arrays in NumPy's `.npy` files: real numbers and labels in, real numbers and indices out.
//!
//! A file is untrusted: nothing is allocated for values that have not arrived, and values that the header does not
//! account for are refused. The format is that of NumPy's `numpy.lib.format`, versions 1 to 3.

pub(crate) mod header;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use half::f16;
use ndarray::{ArrayView, ArrayView2, Dimension, ShapeBuilder};

use crate::DataError;
use header::Header;

/// The bytes that are read at a time: a multiple of every value's size.
const CHUNK: usize = 1 << 16;

/// An array of real numbers and the file that it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Npy<T> {
    /// The file, for messages.
    pub path: PathBuf,
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The values, the last axis fastest, whatever the order in the file.
    pub values: Vec<T>,
}

/// What real numbers can be read as: `f32` and `f64`.
pub trait Real: Copy {
    /// The nearest value of this type.
    fn from_f64(value: f64) -> Self;

    /// Whether it is neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// What can be written: `f32` and `i64`.
pub trait Entry: Copy {
    /// NumPy's name of the type, little-endian.
    const DESCR: &str;

    /// The bytes of a value, the lowest first.
    fn bytes(self) -> impl AsRef<[u8]>;
}

impl Entry for f32 {
    const DESCR: &str = "<f4";

    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

impl Entry for i64 {
    const DESCR: &str = "<i8";

    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

/// Reads a file of f16, f32 or f64, of either byte order and either memory order.
///
/// Infinities and NaN are passed on as they are.
///
/// # Errors
/// If the file cannot be read, is no complete `.npy` file, holds bytes behind its values or values of another type, or if
/// a finite value is infinite as a `T`.
pub fn read<T: Real>(path: &Path) -> Result<Npy<T>, DataError> {
    decode(open(path)?, path)
}

/// [`read`] from any stream; `path` is for messages.
///
/// # Errors
/// As [`read`].
pub fn decode<T: Real>(mut reader: impl Read, path: &Path) -> Result<Npy<T>, DataError> {
    let header = Header::read(&mut reader, path)?;
    let outside = "a number outside the range of float32; scale the array down";
    let body = Body { reader: &mut reader, header: &header, path, outside };
    let real = |value: f64| match T::from_f64(value) {
        narrow if value.is_finite() && !narrow.is_finite() => Err(format!("{value:e}")),
        narrow => Ok(narrow),
    };
    let values = match header.code() {
        "f2" => body.values(|bytes| real(f16::from_le_bytes(bytes).into())),
        "f4" => body.values(|bytes| real(f32::from_le_bytes(bytes).into())),
        "f8" => body.values(|bytes| real(f64::from_le_bytes(bytes))),
        _ => Err(header.type_error(path, "float16, float32 or float64")),
    }?;
    Ok(Npy { path: path.into(), values: in_order(values, &header, path)?, shape: header.shape })
}

/// The values of a file with the last axis fastest.
fn in_order<T: Copy>(values: Vec<T>, header: &Header, path: &Path) -> Result<Vec<T>, DataError> {
    if !header.fortran_order {
        return Ok(values);
    }
    let view = ArrayView::from_shape(header.shape.as_slice().f(), &values);
    Ok(view.map_err(|error| format_error(path, error.to_string()))?.iter().copied().collect())
}

/// Reads a file of truth values, of either memory order.
///
/// # Errors
/// As [`read`].
pub fn read_bools(path: &Path) -> Result<Npy<bool>, DataError> {
    let mut reader = open(path)?;
    let header = Header::read(&mut reader, path)?;
    if header.code() != "b1" {
        return Err(header.type_error(path, "bool"));
    }
    let body =
        Body { reader: &mut reader, header: &header, path, outside: "no truth value; those are 0 and 1" };
    let values = body.values(|[byte]| match byte {
        0 | 1 => Ok(byte == 1),
        other => Err(other),
    })?;
    Ok(Npy { path: path.into(), values: in_order(values, &header, path)?, shape: header.shape })
}

/// Reads a vector of labels from a file of integers.
///
/// # Errors
/// As [`read`]; also if the array is no vector, or if a label is negative or above 2³² − 1.
pub fn read_labels(path: &Path) -> Result<Vec<u32>, DataError> {
    decode_labels(open(path)?, path)
}

/// [`read_labels`] from any stream; `path` is for messages.
///
/// # Errors
/// As [`read_labels`].
pub fn decode_labels(mut reader: impl Read, path: &Path) -> Result<Vec<u32>, DataError> {
    let header = Header::read(&mut reader, path)?;
    if header.shape.len() != 1 {
        let wanted = "a vector of one label for each image";
        return Err(DataError::NpyShape { path: path.into(), shape: header.shape, wanted });
    }
    let outside = "no label; labels are whole numbers from 0 to 4294967295";
    let body = Body { reader: &mut reader, header: &header, path, outside };
    match header.code() {
        "i1" => body.values(|bytes| label(i8::from_le_bytes(bytes))),
        "i2" => body.values(|bytes| label(i16::from_le_bytes(bytes))),
        "i4" => body.values(|bytes| label(i32::from_le_bytes(bytes))),
        "i8" => body.values(|bytes| label(i64::from_le_bytes(bytes))),
        "u1" => body.values(|bytes| label(u8::from_le_bytes(bytes))),
        "u2" => body.values(|bytes| label(u16::from_le_bytes(bytes))),
        "u4" => body.values(|bytes| label(u32::from_le_bytes(bytes))),
        "u8" => body.values(|bytes| label(u64::from_le_bytes(bytes))),
        _ => Err(header.type_error(path, "an integer type")),
    }
}

fn label<I: Copy + TryInto<u32>>(value: I) -> Result<u32, I> {
    value.try_into().map_err(|_| value)
}

impl<T> Npy<T> {
    /// One row for each entry of the first axis: images or noises as vectors.
    ///
    /// # Shapes
    /// \[N, …\] becomes [N, D], where D is the product of all other axes.
    ///
    /// # Errors
    /// If the array has fewer than two axes.
    pub fn rows(&self) -> Result<ArrayView2<'_, T>, DataError> {
        match self.shape.as_slice() {
            [rows, row @ ..] if !row.is_empty() => {
                ArrayView2::from_shape((*rows, row.iter().product()), &self.values)
                    .map_err(|error| format_error(&self.path, error.to_string()))
            }
            _ => Err(DataError::NpyShape {
                path: self.path.clone(),
                shape: self.shape.clone(),
                wanted: "an array of two axes or more, of which the first counts the rows,",
            }),
        }
    }
}

/// Writes an array to a file, under a temporary name first, so that it is whole or not there. Missing folders are made.
///
/// # Errors
/// If the file cannot be written.
pub fn write<T: Entry, D: Dimension>(path: &Path, array: ArrayView<T, D>) -> Result<(), DataError> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".tmp");
    let whole = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = BufWriter::new(File::create(&staged)?);
        encode(&mut file, array)?;
        file.into_inner()?.sync_all()?;
        fs::rename(&staged, path)
    };
    whole().map_err(|source| DataError::Write { path: path.into(), source })
}

fn encode<T: Entry, D: Dimension>(mut writer: impl Write, array: ArrayView<T, D>) -> io::Result<()> {
    header::write(&mut writer, T::DESCR, array.shape())?;
    array.iter().try_for_each(|value| writer.write_all(value.bytes().as_ref()))
}

fn open(path: &Path) -> Result<BufReader<File>, DataError> {
    File::open(path).map(BufReader::new).map_err(|source| DataError::Io { path: path.into(), source })
}

fn format_error(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::Format { path: path.into(), reason: reason.into() }
}

/// What follows the header.
struct Body<'a, R> {
    reader: &'a mut R,
    header: &'a Header,
    path: &'a Path,
    /// What a value is that cannot be converted.
    outside: &'static str,
}

impl<R: Read> Body<'_, R> {
    /// All values in the order of the file, each of `N` bytes that are passed to `convert` in little-endian order.
    fn values<const N: usize, V, E: Display>(
        self,
        convert: impl Fn([u8; N]) -> Result<V, E>,
    ) -> Result<Vec<V>, DataError> {
        let Self { reader, header, path, outside } = self;
        let big_endian = header.big_endian();
        let promised = header.count(path, N.max(size_of::<V>()))? * N;
        let mut chunk = vec![0; CHUNK];
        let mut values = Vec::new();
        while values.len() * N < promised {
            let done = values.len() * N;
            let wanted = (promised - done).min(CHUNK);
            let found = fill(reader, &mut chunk[..wanted])
                .map_err(|source| DataError::Io { path: path.into(), source })?;
            if found < wanted {
                let reason = format!(
                    "ends after {} of the {promised} bytes of values that its header promises",
                    done + found
                );
                return Err(format_error(path, reason));
            }
            values.try_reserve(wanted / N).map_err(|_| {
                format_error(path, format!("does not fit in memory: {promised} bytes of values"))
            })?;
            for bytes in chunk[..wanted].as_chunks::<N>().0 {
                let mut bytes = *bytes;
                if big_endian {
                    bytes.reverse();
                }
                values.push(convert(bytes).map_err(|value| DataError::NpyValue {
                    path: path.into(),
                    index: header.index(values.len()),
                    value: value.to_string(),
                    outside,
                })?);
            }
        }
        match fill(reader, &mut chunk[..1]) {
            Ok(0) => Ok(values),
            Ok(_) => Err(format_error(
                path,
                format!("goes on behind the {promised} bytes of values that its header promises"),
            )),
            Err(source) => Err(DataError::Io { path: path.into(), source }),
        }
    }
}

/// Reads until `buffer` is full or the stream ends, and says how far it came.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
