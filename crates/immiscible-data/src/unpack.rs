use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use zip::read::ZipArchive;

use crate::DataError;

/// What an archive may unpack to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Most files and folders.
    pub entries: usize,
    /// Most bytes of all files together.
    pub bytes: u64,
    /// Most bytes of all files for each byte of the archive.
    pub ratio: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { entries: 2_000_000, bytes: 64 << 30, ratio: 200 }
    }
}

/// Unpacks an archive (`.zip`, `.tar`, `.tar.gz` or `.tgz`) to the folder `into`, which must not be there yet: whole, or not
/// at all.
///
/// The archive is untrusted: it may hold plain files and folders with relative names and nothing else, no links and no
/// devices, no name twice, and no more than `limits` say. A folder that holds everything else is left out of the names.
///
/// # Errors
/// [`DataError::Archive`] where the archive is refused or damaged, and whatever the file system says.
pub fn unpack(archive: &Path, into: &Path, limits: UnpackLimits) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: archive.into(), source };
    if into.exists() {
        let source = io::Error::new(io::ErrorKind::AlreadyExists, "it is there already");
        return Err(DataError::Write { path: into.into(), source });
    }
    let file = File::open(archive).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut staged = into.as_os_str().to_owned();
    staged.push(".partial");
    let staged = PathBuf::from(staged);
    let write = |source| DataError::Write { path: staged.clone(), source };
    if staged.exists() {
        fs::remove_dir_all(&staged).map_err(write)?;
    }
    fs::create_dir_all(&staged).map_err(write)?;
    let name = archive.to_string_lossy().to_lowercase();
    let mut out = Unpacked {
        archive,
        staged: &staged,
        limits,
        entries: 0,
        left: limits.bytes.min(limits.ratio.saturating_mul(size.max(1))),
    };
    let reader = BufReader::new(file);
    let unpacked = match name {
        name if name.ends_with(".zip") => out.zip(reader),
        name if name.ends_with(".tar") => out.tar(reader),
        _ => out.tar(MultiGzDecoder::new(reader)),
    };
    let whole = unpacked.and_then(|()| fs::rename(only_folder(&staged).map_err(write)?, into).map_err(write));
    // What is left is empty, or worthless.
    let _ = fs::remove_dir_all(&staged);
    whole
}

/// The one folder in `folder`, if it holds nothing else, or itself.
fn only_folder(folder: &Path) -> io::Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?;
    match (entries.next().transpose()?, entries.next()) {
        (Some(entry), None) if entry.file_type()?.is_dir() => Ok(entry.path()),
        _ => Ok(folder.into()),
    }
}

struct Unpacked<'a> {
    archive: &'a Path,
    staged: &'a Path,
    limits: UnpackLimits,
    entries: usize,
    /// Bytes that may still come.
    left: u64,
}

impl Unpacked<'_> {
    fn tar(&mut self, reader: impl Read) -> Result<(), DataError> {
        // Headers and padding of small files may be as much as their content.
        let most = self.left.saturating_mul(2).saturating_add(2048 * self.limits.entries as u64);
        let mut tar = tar::Archive::new(reader.take(most));
        for entry in tar.entries().map_err(|error| self.damaged(error))? {
            let mut entry = entry.map_err(|error| self.damaged(error))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            match entry.header().entry_type() {
                tar::EntryType::Directory => self.folder(&name)?,
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let size = entry.size();
                    self.file(&name, size, &mut entry)?;
                }
                tar::EntryType::XGlobalHeader => {}
                other => return Err(self.refused(&name, &format!("is no plain file but {other:?}"))),
            }
        }
        // The check sum of a compressed archive lies behind its last file.
        io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(|error| self.damaged(error))?;
        Ok(())
    }

    fn zip(&mut self, reader: BufReader<File>) -> Result<(), DataError> {
        let damaged = |archive: &Path, error: zip::result::ZipError| damaged(archive, &error.to_string());
        let mut zip = ZipArchive::new(reader).map_err(|error| damaged(self.archive, error))?;
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(|error| damaged(self.archive, error))?;
            let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
            if entry.is_dir() {
                self.folder(&name)?;
            } else if entry.is_file()
                && entry.unix_mode().is_none_or(|mode| [0, 0o100_000].contains(&(mode & 0o170_000)))
            {
                let size = entry.size();
                self.file(&name, size, &mut entry)?;
            } else {
                return Err(self.refused(&name, "is no plain file"));
            }
        }
        Ok(())
    }

    fn folder(&mut self, name: &str) -> Result<(), DataError> {
        let path = self.place(name)?;
        fs::create_dir_all(&path).map_err(|source| DataError::Write { path, source })
    }

    fn file(&mut self, name: &str, size: u64, content: &mut impl Read) -> Result<(), DataError> {
        let path = self.place(name)?;
        if path == *self.staged {
            return Err(self.refused(name, "has no name"));
        }
        let write = |source| DataError::Write { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(write)?;
        }
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.refused(name, "is there twice"));
            }
            file => file.map_err(write)?,
        };
        let copied = io::copy(&mut content.take(self.left.saturating_add(1)), &mut file)
            .map_err(|error| self.damaged(error))?;
        if copied > self.left {
            let UnpackLimits { bytes, ratio, .. } = self.limits;
            let most = format!(
                "makes the archive unpack to more than {bytes} bytes, or {ratio} for each of its own"
            );
            return Err(self.refused(name, &most));
        }
        if copied != size {
            return Err(self.damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= copied;
        Ok(())
    }

    /// Where a file of this name goes, which is always below the staged folder.
    fn place(&mut self, name: &str) -> Result<PathBuf, DataError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(self.refused(name, &format!("is one of more than {} files", self.limits.entries)));
        }
        let mut path = self.staged.to_owned();
        // A backslash parts folders on one system and is a letter on others.
        if name.contains(['\0', '\\', ':']) {
            return Err(self.refused(name, "has a name that is not taken"));
        }
        for component in Path::new(name).components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                _ => return Err(self.refused(name, "leads out of its folder")),
            }
        }
        Ok(path)
    }

    fn refused(&self, name: &str, why: &str) -> DataError {
        let name: String = name.escape_debug().take(100).collect();
        DataError::Archive { path: self.archive.into(), reason: format!("is refused: {name} {why}") }
    }

    fn damaged(&self, error: io::Error) -> DataError {
        damaged(self.archive, &error.to_string())
    }
}

fn damaged(archive: &Path, reason: &str) -> DataError {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let reason: String = line.escape_debug().take(200).collect();
    DataError::Archive { path: archive.into(), reason: format!("is no complete archive ({reason})") }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::{Compression, write::GzEncoder};
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    struct Case {
        folder: tempfile::TempDir,
        name: &'static str,
    }

    impl Case {
        fn new(name: &'static str, bytes: &[u8]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), bytes).unwrap();
            Self { folder, name }
        }

        fn unpack(&self, limits: UnpackLimits) -> Result<(), DataError> {
            unpack(&self.folder.path().join(self.name), &self.folder.path().join("out"), limits)
        }

        /// Refuses, and leaves nothing anywhere.
        fn refused(&self, limits: UnpackLimits) -> String {
            let text = self.unpack(limits).unwrap_err().to_string();
            let left: Vec<_> =
                fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, [self.name], "{text}");
            assert!(text.contains(self.name) && !text.contains('\n'), "{text}");
            text
        }

        fn read(&self, file: &str) -> Vec<u8> {
            fs::read(self.folder.path().join("out").join(file)).unwrap()
        }
    }

    fn header(kind: tar::EntryType, name: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        // Written as it is: the crate's own way would refuse some names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o777);
        header.set_cksum();
        header
    }

    fn tar_of(entries: &[(tar::EntryType, &str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, bytes) in entries {
            let mut header = header(*kind, name, bytes.len() as u64);
            if *kind == tar::EntryType::Symlink || *kind == tar::EntryType::Link {
                header.set_link_name("/etc/passwd").unwrap();
                header.set_cksum();
            }
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    use tar::EntryType::{Directory, Regular};

    #[test]
    fn plain_files_arrive_and_a_folder_around_everything_is_left_out() {
        let entries = [
            (Directory, "set/", &b""[..]),
            (Regular, "set/a/1.txt", b"one"),
            (Regular, "./set/b.txt", b"two"),
        ];
        for case in [
            Case::new("x.tar", &tar_of(&entries)),
            Case::new("x.tgz", &gzip(&tar_of(&entries))),
            Case::new("x.tar.gz", &gzip(&tar_of(&entries))),
            Case::new("x.zip", &zip_of(&[("set/a/1.txt", b"one"), ("set/b.txt", b"two")])),
        ] {
            case.unpack(UnpackLimits::default()).unwrap();
            assert_eq!((case.read("a/1.txt"), case.read("b.txt")), (b"one".to_vec(), b"two".to_vec()));
            assert!(case.unpack(UnpackLimits::default()).unwrap_err().to_string().contains("there already"));
        }
        let case = Case::new("x.zip", &zip_of(&[("a.txt", b"1"), ("b/c.txt", b"2")]));
        case.unpack(UnpackLimits::default()).unwrap();
        assert_eq!(case.read("b/c.txt"), b"2");
    }

    #[test]
    fn nothing_gets_out_of_the_folder() {
        let long = format!("a/{}../../../evil", "./".repeat(20));
        for name in ["../evil", "/tmp/evil", "a/../../evil", "..", "C:\\evil", "a\\..\\evil", &*long] {
            let text = Case::new("x.tar", &tar_of(&[(Regular, name, b"x")])).refused(UnpackLimits::default());
            assert!(text.contains("is refused: "), "{name}: {text}");
            let text =
                Case::new("x.zip", &zip_of(&[("ok", b"x"), (name, b"x")])).refused(UnpackLimits::default());
            assert!(text.contains("is refused: "), "{name}: {text}");
        }
        for kind in [
            tar::EntryType::Symlink,
            tar::EntryType::Link,
            tar::EntryType::Char,
            tar::EntryType::Block,
            tar::EntryType::Fifo,
            tar::EntryType::GNUSparse,
        ] {
            let bytes = tar_of(&[(Regular, "ok", b"x"), (kind, "evil", b"")]);
            let text = Case::new("x.tar", &bytes).refused(UnpackLimits::default());
            assert!(text.contains("evil is no plain file") || text.contains("no complete archive"), "{text}");
        }
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer.add_symlink("evil", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        let text =
            Case::new("x.zip", &writer.finish().unwrap().into_inner()).refused(UnpackLimits::default());
        assert!(text.contains("evil is no plain file"), "{text}");
        let twice = tar_of(&[(Regular, "a", b"x"), (Regular, "./a", b"y")]);
        assert!(Case::new("x.tar", &twice).refused(UnpackLimits::default()).contains("is there twice"));
    }

    #[test]
    fn bombs_stop_at_the_limits() {
        let limits = UnpackLimits { entries: 3, bytes: 1000, ratio: 1000 };
        let many: Vec<_> = ["a", "b", "c", "d"].map(|name| (Regular, name, &b"x"[..])).to_vec();
        assert!(Case::new("x.tar", &tar_of(&many)).refused(limits).contains("one of more than 3 files"));
        let large = tar_of(&[(Regular, "a", &[1; 600][..]), (Regular, "b", &[1; 600])]);
        assert!(
            Case::new("x.tar", &large)
                .refused(limits)
                .contains("b makes the archive unpack to more than 1000")
        );
        // A million zeros are about a thousand bytes.
        let zeros = vec![0; 1 << 20];
        for case in [
            Case::new("x.tgz", &gzip(&tar_of(&[(Regular, "a", &zeros)]))),
            Case::new("x.zip", &zip_of(&[("a", &zeros)])),
        ] {
            let limits = UnpackLimits { ratio: 50, ..UnpackLimits::default() };
            assert!(case.refused(limits).contains("50 for each of its own"));
        }
    }

    #[test]
    fn damaged_archives_leave_nothing() {
        let tar = tar_of(&[(Regular, "a", &[7; 3000]), (Regular, "b", &[8; 3000])]);
        for (name, bytes) in
            [("x.tgz", gzip(&tar)), ("x.zip", zip_of(&[("a", &[7; 3000]), ("b", &[8; 3000])]))]
        {
            for cut in 0..bytes.len() {
                Case::new(name, &bytes[..cut]).refused(UnpackLimits::default());
            }
        }
        for cut in [1, 511, 600, 2000, 4000, 5000] {
            Case::new("x.tar", &tar[..cut]).refused(UnpackLimits::default());
        }
    }
}
