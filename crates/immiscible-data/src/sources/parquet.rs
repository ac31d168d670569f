//! `parquet`: tables with a column of encoded images and one of labels, as data sets on the Hugging Face hub have them:
//! `image.bytes` and `label`.
//!
//! Pages of a table are compressed together, so that a row cannot be read alone: the images are copied once, still encoded,
//! to a temporary file that has no name and goes with the process.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::encoded::{Encoded, OPTIONS, Store};
use super::{numbered, short};
use crate::bytes::Bytes;
use crate::file;
use crate::{DataError, DataOptions, Source, Split};

/// What the columns are called, the preferred name first.
const IMAGES: [&str; 4] = ["image.bytes", "img.bytes", "image", "img"];
const LABELS: [&str; 3] = ["label", "labels", "fine_label"];
/// Rows that are read together.
const ROWS: usize = 256;

pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&[&["path", "split"], &OPTIONS[..]].concat())?;
    let path = options.require_path("a .parquet file of images, or a folder of such files")?;
    let paths = match (path.is_dir(), options.split) {
        (true, split) => tables(path, split)?,
        (false, None) => vec![path.to_owned()],
        (false, Some(_)) => {
            return Err(DataError::UnusedOption { name: options.name.clone(), option: "split" });
        }
    };
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    let spool = spool().map_err(|source| DataError::Write { path: std::env::temp_dir(), source })?;
    let mut out = BufWriter::new(spool);
    let mut written = 0;
    for (shard, path) in paths.iter().enumerate() {
        let table = Table::open(path)?;
        table.labels(&mut labels)?;
        let from = rows.len();
        table.images(|image| {
            out.write_all(image).map_err(|source| DataError::Write { path: std::env::temp_dir(), source })?;
            rows.push((shard, rows.len() - from, written, image.len() as u64));
            written += image.len() as u64;
            Ok(())
        })?;
        if !labels.is_empty() && labels.len() != rows.len() {
            let reason = format!("has {} labels for {} images", labels.len(), rows.len());
            return Err(DataError::Format { path: path.clone(), reason });
        }
    }
    let spool = out
        .into_inner()
        .map_err(|error| DataError::Write { path: std::env::temp_dir(), source: error.into_error() })?;
    let labels = match labels.is_empty() {
        true => None,
        false => {
            let classes = numbered(path, labels.iter().copied())?;
            Some((labels, classes))
        }
    };
    if rows.is_empty() {
        return Err(DataError::NoFiles { path: path.into(), wanted: "row with an image".into() });
    }
    let store = Rows { paths, rows, spool: Bytes::of_file(spool, written) };
    Ok(Box::new(Encoded::open(options, Box::new(store), labels)?))
}

fn spool() -> std::io::Result<File> {
    tempfile::tempfile()
}

/// The tables of a folder in the order of their names; those of a split begin with its name.
fn tables(folder: &Path, split: Option<Split>) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = file::entries(folder)?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let of_split = split.is_none_or(|split| name.starts_with(split.as_str()));
        path.is_file() && of_split && name.to_lowercase().ends_with(".parquet")
    });
    if paths.is_empty() {
        let wanted = format!("{}*.parquet", split.map_or("", Split::as_str));
        return Err(DataError::NoFiles { path: folder.into(), wanted });
    }
    Ok(paths)
}

struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
}

impl Table {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|source| DataError::Io { path: path.into(), source })?;
        let reader = SerializedFileReader::new(file).map_err(|error| broken(path, &error))?;
        Ok(Self { path: path.into(), reader })
    }

    /// The position of the first column that has one of these names.
    fn column(&self, names: &[&str]) -> Option<usize> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let find = |name: &&str| schema.columns().iter().position(|column| column.path().string() == **name);
        names.iter().find_map(|name| find(&name))
    }

    /// Hands on the bytes of each image.
    fn images(&self, mut take: impl FnMut(&[u8]) -> Result<(), DataError>) -> Result<(), DataError> {
        let Some(column) = self.column(&IMAGES) else {
            let reason = format!("has no column called {}", IMAGES.join(", "));
            return Err(DataError::Format { path: self.path.clone(), reason });
        };
        self.each(column, |reader| match reader {
            ColumnReader::ByteArrayColumnReader(reader) => self.values(reader, |value| take(value.data())),
            _ => {
                let reason = "has images that are no bytes; image files are read, as image.bytes".into();
                Err(DataError::Format { path: self.path.clone(), reason })
            }
        })
    }

    fn labels(&self, labels: &mut Vec<u32>) -> Result<(), DataError> {
        let Some(column) = self.column(&LABELS) else {
            return Ok(());
        };
        let format = |reason: String| DataError::Format { path: self.path.clone(), reason };
        let mut take = |label: i64| {
            let label = u32::try_from(label);
            labels.push(label.map_err(|_| format("has a label that names no class".into()))?);
            Ok(())
        };
        self.each(column, |reader| match reader {
            ColumnReader::Int64ColumnReader(reader) => self.values(reader, |value| take(*value)),
            ColumnReader::Int32ColumnReader(reader) => self.values(reader, |value| take((*value).into())),
            _ => Err(format("has labels that are no whole numbers".into())),
        })
    }

    /// Hands on the column's reader of each group of rows.
    fn each(
        &self,
        column: usize,
        mut take: impl FnMut(ColumnReader) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        (0..self.reader.num_row_groups()).try_for_each(|group| {
            let group = self.reader.get_row_group(group).map_err(|error| broken(&self.path, &error))?;
            take(group.get_column_reader(column).map_err(|error| broken(&self.path, &error))?)
        })
    }

    /// Hands on each value; there must be one in every row.
    fn values<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        mut take: impl FnMut(&T::T) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        loop {
            let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
            let read = reader.read_records(ROWS, Some(&mut defined), Some(&mut repeated), &mut values);
            let (rows, found, _) = read.map_err(|error| broken(&self.path, &error))?;
            if found != rows {
                let reason = format!("has {} rows without a value that is needed", rows - found.min(rows));
                return Err(DataError::Format { path: self.path.clone(), reason });
            }
            if rows == 0 {
                return Ok(());
            }
            values.iter().try_for_each(&mut take)?;
        }
    }
}

fn broken(path: &Path, error: &ParquetError) -> DataError {
    let reason = short(error);
    DataError::Format { path: path.into(), reason: format!("is no complete parquet file ({reason})") }
}

struct Rows {
    paths: Vec<PathBuf>,
    /// Table, row in it, and where the image is in the copy.
    rows: Vec<(usize, usize, u64, u64)>,
    spool: Bytes,
}

impl Store for Rows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn path(&self, index: usize) -> PathBuf {
        let (table, row, ..) = self.rows[index];
        self.paths[table].join(format!("row-{row}"))
    }

    fn bytes(&self, index: usize) -> Result<Bytes, DataError> {
        let (_, _, start, len) = self.rows[index];
        let part = self.spool.slice(start, len);
        part.ok_or_else(|| DataError::Format { path: self.path(index), reason: "is not there".into() })
    }
}
