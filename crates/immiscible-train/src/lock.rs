use crate::{Disk, FileSystem, TrainError};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";

/// The right to train in a run directory. At most one process has it, and the system takes it back when that process
/// ends, however it does. Reading checkpoints needs none.
#[derive(Debug)]
pub struct RunLock {
    run: PathBuf,
    /// Closing it gives the lock back.
    _file: File,
    /// Whether the file system has locks.
    pub held: bool,
}

impl RunLock {
    /// Takes the lock of a run directory, which is made if it does not exist.
    ///
    /// # Errors
    /// [`TrainError::Locked`] if another process has it; [`TrainError::Io`] if its file cannot be opened.
    pub fn take(run: &Path) -> Result<Self, TrainError> {
        Disk.create_folder(run).map_err(TrainError::io(run))?;
        let path = run.join(LOCK);
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(TrainError::io(&path))?;
        let held = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Where locked files cannot be read, nobody is named.
                let _ = file.take(256).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".into(),
                    holder => holder.replace('\n', " "),
                };
                return Err(TrainError::Locked { run: run.into(), holder });
            }
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => false,
            Err(TryLockError::Error(error)) => return Err(TrainError::Io { path, source: error }),
        };
        // Only for the message above: a full disk must not keep a run from going on.
        let _ = file.set_len(0).and_then(|()| write!(file, "process {} on {}", std::process::id(), host()));
        Ok(Self { run: run.into(), _file: file, held })
    }

    /// The run directory.
    pub fn run(&self) -> &Path {
        &self.run
    }
}

/// The machine's name, as far as it is told.
fn host() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let variable = |name| std::env::var(name).ok();
    let name = kernel.or_else(|| variable("HOSTNAME")).or_else(|| variable("COMPUTERNAME"));
    name.map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "this machine".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let lock = RunLock::take(&run).unwrap();
        let message = RunLock::take(&run).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        assert!(RunLock::take(&folder.path().join("other")).is_ok());
        drop(lock);
        assert!(RunLock::take(&run).unwrap().held);
    }
}
