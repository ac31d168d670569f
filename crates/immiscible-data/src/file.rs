use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::DataError;

/// The most bytes of one file that are kept in memory: 1 GiB, twenty times the MNIST training images. It is also what
/// stops a decompression bomb.
pub(crate) const MAX_BYTES: u64 = 1 << 30;

/// The whole content of a file, decompressed where it starts like gzip. No format read here starts that way itself.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    decompress(BufReader::new(file), path, MAX_BYTES)
}

/// The whole content of `reader`, decompressed where it starts like gzip; `path` is for messages.
pub(crate) fn decompress(mut reader: impl BufRead, path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    let read = reader.fill_buf().map(|start| start.starts_with(&[0x1f, 0x8b])).and_then(|is_gzip| {
        if is_gzip {
            MultiGzDecoder::new(reader).take(limit + 1).read_to_end(&mut bytes)
        } else {
            reader.take(limit + 1).read_to_end(&mut bytes)
        }
    });
    match read {
        Ok(len) if len as u64 > limit => Err(DataError::TooLarge { path: path.into(), limit }),
        Ok(_) => Ok(bytes),
        Err(error) => Err(gzip_or_io(error, path)),
    }
}

fn gzip_or_io(source: io::Error, path: &Path) -> DataError {
    match source.kind() {
        ErrorKind::UnexpectedEof => DataError::Gzip { path: path.into(), reason: "it ends too early".into() },
        ErrorKind::InvalidData | ErrorKind::InvalidInput => {
            DataError::Gzip { path: path.into(), reason: source.to_string() }
        }
        _ => DataError::Io { path: path.into(), source },
    }
}

/// The file `name` in `folder`, or else `name.gz`.
pub(crate) fn plain_or_gz(folder: &Path, name: &str) -> Result<PathBuf, DataError> {
    std::fs::read_dir(folder).map_err(|source| DataError::Io { path: folder.into(), source })?;
    [folder.join(name), folder.join(format!("{name}.gz"))]
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| DataError::NoFiles { path: folder.into(), wanted: format!("{name} or {name}.gz") })
}

/// The entries of a folder in the order of their names.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut paths = std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    list().map_err(|source| DataError::Io { path: folder.into(), source })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_is_told_from_plain_bytes() {
        let path = Path::new("x");
        let bytes = vec![7; 5000];
        assert_eq!(decompress(bytes.as_slice(), path, 5000).unwrap(), bytes);
        assert_eq!(decompress(gzip(&bytes).as_slice(), path, 5000).unwrap(), bytes);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 2000);
        let error = decompress(bomb.as_slice(), Path::new("bomb.gz"), 4096).unwrap_err();
        assert!(matches!(error, DataError::TooLarge { limit: 4096, .. }), "{error}");
    }

    #[test]
    fn every_truncation_of_a_gzip_file_is_noticed() {
        let whole = gzip(b"some text that is worth keeping");
        for len in 2..whole.len() {
            let error = decompress(&whole[..len], Path::new("cut.gz"), 4096).unwrap_err();
            assert!(matches!(error, DataError::Gzip { .. }), "{len}: {error}");
        }
    }

    #[test]
    fn every_flipped_bit_of_the_content_is_noticed() {
        let text = b"some text that is worth keeping";
        let whole = gzip(text);
        // Past the ten bytes of the header, whose time stamp and system byte may hold anything.
        for bit in 80..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = decompress(damaged.as_slice(), Path::new("damaged.gz"), 4096);
            assert!(read.is_err() || read.is_ok_and(|bytes| bytes == text), "bit {bit}");
        }
    }
}
