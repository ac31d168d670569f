//! The file operations that keeping checkpoints is made of: a trait, so that a test can let each of them fail, and the
//! machine's own files.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

/// The file operations that [`CheckpointStore`](crate::CheckpointStore) is made of.
///
/// After a crash a file holds what [`write`](Self::write) put there if that had returned, a folder is there if
/// [`create_folder`](Self::create_folder) had, and another name stands in a folder if [`sync_folder`](Self::sync_folder)
/// of it had returned since. Nothing else is relied on.
pub trait FileSystem: Debug + Send + Sync {
    /// Makes a folder, and those above it, and brings their names to the disk.
    ///
    /// # Errors
    /// What the system says.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes a file or replaces it, and brings its contents to the disk; its name may not be there yet.
    ///
    /// # Errors
    /// What the system says; the file may then hold anything.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Brings the names in a folder to the disk.
    ///
    /// # Errors
    /// What the system says.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or folder another name at once; a file of that name is replaced.
    ///
    /// # Errors
    /// What the system says; nothing has then changed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, or a folder with everything in it, if it is there.
    ///
    /// # Errors
    /// What the system says; a part may then be gone.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The contents of a regular file.
    ///
    /// # Errors
    /// What the system says; [`ErrorKind::IsADirectory`] for whatever is no regular file.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>>;

    /// The names in a folder, none if there is no folder, in any order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Bytes that can still be written to the disk of a folder, if the system tells.
    fn free(&self, folder: &Path) -> Option<u64> {
        let _ = folder;
        None
    }
}

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl FileSystem for Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let above = match path.parent() {
            Some(above) if above != Path::new("") => above,
            _ => Path::new("."),
        };
        self.create_folder(above)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists || !path.is_dir() => Err(error),
            _ => self.sync_folder(above),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        // On the same handle: another one may not be told of an error.
        file.sync_all()
    }

    #[cfg(unix)]
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// Elsewhere folders cannot be opened; the system orders its names itself.
    #[cfg(not(unix))]
    fn sync_folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        // Opening a pipe would wait for somebody to write to it.
        if !fs::symlink_metadata(path)?.is_file() {
            return Err(ErrorKind::IsADirectory.into());
        }
        Ok(Box::new(File::open(path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    #[cfg(unix)]
    fn free(&self, folder: &Path) -> Option<u64> {
        let found = rustix::fs::statvfs(folder).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }
}
