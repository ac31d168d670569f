//! Matrices as `.npy` files (NumPy Enhancement Proposal 1): how the children and Python get theirs.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use anyhow::{Context, ensure};
use ndarray::{Array2, ArrayView2};

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// Values that are converted at a time.
const CHUNK: usize = 1 << 16;

/// Writes a matrix in row-major order.
pub(crate) fn write(path: &Path, matrix: ArrayView2<f32>) -> anyhow::Result<()> {
    let (rows, columns) = matrix.dim();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // The values start at a multiple of 64 bytes.
    while !(MAGIC.len() + 2 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut file =
        BufWriter::with_capacity(4 * CHUNK, File::create(path).with_context(|| path.display().to_string())?);
    file.write_all(MAGIC)?;
    file.write_all(&(header.len() as u16).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for row in matrix.rows() {
        for value in row {
            file.write_all(&value.to_le_bytes())?;
        }
    }
    file.flush()?;
    Ok(())
}

/// Reads single precision in row-major order, of any rank; axes after the first become one.
pub(crate) fn read(path: &Path) -> anyhow::Result<Array2<f32>> {
    read_from(File::open(path).with_context(|| path.display().to_string())?)
        .with_context(|| path.display().to_string())
}

fn read_from(file: impl Read) -> anyhow::Result<Array2<f32>> {
    let mut file = BufReader::with_capacity(4 * CHUNK, file);
    let mut start = [0; 10];
    file.read_exact(&mut start).context("is no .npy file")?;
    ensure!(start.starts_with(MAGIC), "is no .npy file of version 1.0");
    let mut header = vec![0; usize::from(u16::from_le_bytes([start[8], start[9]]))];
    file.read_exact(&mut header)?;
    let header = String::from_utf8(header)?;
    ensure!(
        header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"),
        "holds {}: save it with numpy.save(path, numpy.ascontiguousarray(array, 'float32'))",
        header.trim()
    );
    let (_, shape) = header.split_once("'shape': (").context("has no shape")?;
    let (shape, _) = shape.split_once(')').context("has no shape")?;
    let sizes: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(sizes.len() >= 2, "has the shape ({shape}), but the first axis must number the images");
    let [rows, columns] = [sizes[0], sizes[1..].iter().product()];
    let mut values: Vec<f32> = Vec::new();
    values.try_reserve_exact(rows * columns)?;
    let mut bytes = vec![0; 4 * CHUNK];
    while values.len() < rows * columns {
        let left = 4 * (rows * columns - values.len());
        let chunk = &mut bytes[..left.min(4 * CHUNK)];
        file.read_exact(chunk).context("ends too early")?;
        values.extend(chunk.as_chunks().0.iter().copied().map(f32::from_le_bytes));
    }
    Ok(Array2::from_shape_vec((rows, columns), values)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("matrix.npy");
        let matrix = Array2::from_shape_fn((300, 301), |(i, j)| i as f32 - 0.5 * j as f32);
        write(&path, matrix.view()).expect("written");
        assert_eq!(read(&path).expect("read"), matrix);
        let bytes = std::fs::read(&path).expect("there");
        assert_eq!((bytes.len() - 4 * matrix.len()) % 64, 0);
        let error = read_from(&bytes[..bytes.len() - 1]).expect_err("cut short");
        assert_eq!(error.to_string(), "ends too early");
    }

    #[test]
    fn other_files_are_refused() {
        assert!(read_from(&b"PNG"[..]).is_err());
        let mut double =
            b"\x93NUMPY\x01\x00\x40\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }".to_vec();
        double.resize(200, b' ');
        let error = read_from(&double[..]).expect_err("double precision").to_string();
        assert!(error.contains("float32"), "{error}");
    }
}
