use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::DataError;

/// A run of bytes that can be read from anywhere, by many threads at once: a file, a part of one, or memory.
#[derive(Clone)]
pub(crate) struct Bytes {
    held: Arc<Held>,
    start: u64,
    len: u64,
}

enum Held {
    File(File),
    Memory(Vec<u8>),
}

impl Bytes {
    /// A whole file, which stays open.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let open = || {
            let file = File::open(path)?;
            let meta = file.metadata()?;
            match meta.is_dir() {
                true => Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder")),
                false => Ok((file, meta.len())),
            }
        };
        let (file, len) = open().map_err(|source| DataError::Io { path: path.into(), source })?;
        Ok(Self::of_file(file, len))
    }

    pub(crate) fn of_file(file: File, len: u64) -> Self {
        Self { held: Arc::new(Held::File(file)), start: 0, len }
    }

    pub(crate) fn of_memory(bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u64;
        Self { held: Arc::new(Held::Memory(bytes)), start: 0, len }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes from `start` on; `None` where they are not all there.
    pub(crate) fn slice(&self, start: u64, len: u64) -> Option<Self> {
        let end = start.checked_add(len)?;
        (end <= self.len).then(|| Self { held: self.held.clone(), start: self.start + start, len })
    }

    /// Fills `out` with what lies from `at` on.
    pub(crate) fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        if at.checked_add(out.len() as u64).is_none_or(|end| end > self.len) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let at = self.start + at;
        match &*self.held {
            Held::Memory(bytes) => {
                let at = at as usize;
                out.copy_from_slice(&bytes[at..at + out.len()]);
                Ok(())
            }
            Held::File(file) => exactly_at(file, at, out),
        }
    }

    /// All of them, at most `limit`; `path` is for messages. Memory is not copied.
    pub(crate) fn all(&self, limit: u64, path: &Path) -> Result<Cow<'_, [u8]>, DataError> {
        if self.len > limit {
            return Err(DataError::TooLarge { path: path.into(), limit });
        }
        if let Held::Memory(bytes) = &*self.held {
            return Ok(Cow::Borrowed(&bytes[self.start as usize..(self.start + self.len) as usize]));
        }
        let mut out = vec![0; self.len as usize];
        self.read_at(0, &mut out).map_err(|source| DataError::Io { path: path.into(), source })?;
        Ok(Cow::Owned(out))
    }

    /// A reader of its own position.
    pub(crate) fn reader(&self) -> Reader {
        Reader { bytes: self.clone(), at: 0 }
    }
}

#[cfg(unix)]
fn exactly_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn exactly_at(file: &File, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => (out, at) = (&mut out[read..], at + read as u64),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads [`Bytes`] one after another.
pub(crate) struct Reader {
    bytes: Bytes,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.len.saturating_sub(self.at);
        let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        self.bytes.read_at(self.at, &mut out[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.bytes.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// Where a part of a file is said to lie in messages: `shard.tar/key.jpg`.
pub(crate) fn inside(archive: &Path, member: &str) -> PathBuf {
    archive.join(member.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_part_is_read_as_the_whole_says() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..100).collect();
        file.write_all(&content).unwrap();
        for whole in [Bytes::open(file.path()).unwrap(), Bytes::of_memory(content.clone())] {
            let part = whole.slice(10, 50).unwrap().slice(5, 20).unwrap();
            assert_eq!(&*part.all(20, file.path()).unwrap(), &content[15..35]);
            assert!(matches!(part.all(19, file.path()), Err(DataError::TooLarge { limit: 19, .. })));
            let mut two = [0; 2];
            part.read_at(18, &mut two).unwrap();
            assert_eq!(two, [33, 34]);
            assert_eq!(part.read_at(19, &mut two).unwrap_err().kind(), ErrorKind::UnexpectedEof);
            assert!(part.read_at(u64::MAX, &mut two).is_err());
            assert!(whole.slice(60, 41).is_none() && whole.slice(u64::MAX, 2).is_none());

            let mut reader = part.reader();
            reader.seek(SeekFrom::End(-3)).unwrap();
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, [32, 33, 34]);
            assert!(reader.seek(SeekFrom::Current(-21)).is_err());
            reader.seek(SeekFrom::Start(500)).unwrap();
            assert_eq!(reader.read(&mut two).unwrap(), 0, "behind the end there is nothing");
        }
    }
}
