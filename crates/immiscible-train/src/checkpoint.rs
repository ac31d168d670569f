//! Checkpoints that are either whole or not there.
//!
//! A checkpoint is a folder that is staged under a temporary name, flushed file by file, sealed by a manifest with
//! the length and SHA-256 of every file, renamed, read back, and only then allowed to displace an older one.

use crate::TrainError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    config_sha256: String,
    files: Vec<Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
    sha256: String,
}

/// A checkpoint whose files were found to be what its manifest says.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Optimiser steps that had been taken.
    pub step: u64,
    /// Hash of the config that it was trained with.
    pub config_sha256: String,
}

/// The folder that holds the checkpoints of one run.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    folder: PathBuf,
}

impl CheckpointStore {
    /// Opens the folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The newest checkpoint whose files are intact, and for every newer one the reason why it was passed over.
    ///
    /// # Errors
    /// When the folder exists and cannot be read.
    pub fn newest(&self) -> Result<(Option<Checkpoint>, Vec<TrainError>), TrainError> {
        let mut skipped = Vec::new();
        for (_, path) in self.steps()?.into_iter().rev() {
            match verify(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), skipped)),
                Err(error) => skipped.push(error),
            }
        }
        Ok((None, skipped))
    }

    /// Saves a checkpoint of `step`: `write` puts its files into the folder that it is given. The `keep` newest
    /// intact checkpoints stay.
    ///
    /// # Errors
    /// When a file cannot be written or does not read back as written; older checkpoints are then untouched.
    pub fn save(
        &self,
        step: u64,
        config_sha256: &str,
        keep: usize,
        write: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<Checkpoint, TrainError> {
        let staged = self.folder.join(format!(".tmp-{step:08}-{}", std::process::id()));
        self.remove_stale()?;
        fs::create_dir_all(&staged).map_err(TrainError::io(&staged))?;
        write(&staged)?;
        let files = entries(&staged)?;
        for Entry { name, .. } in &files {
            sync(&staged.join(name))?;
        }
        let manifest = Manifest { format: FORMAT, step, config_sha256: config_sha256.into(), files };
        write_json(&staged.join(MANIFEST), &manifest)?;
        sync(&staged)?;

        let path = self.folder.join(format!("step-{step:08}"));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
        }
        fs::rename(&staged, &path).map_err(TrainError::io(&path))?;
        sync(&self.folder)?;
        let checkpoint = verify(&path)?;
        self.point_latest_to(&path)?;
        self.prune(keep.max(2))?;
        Ok(checkpoint)
    }

    /// Every checkpoint folder by step, oldest first.
    fn steps(&self) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(TrainError::io(&self.folder))? {
            let path = entry.map_err(TrainError::io(&self.folder))?.path();
            let step = path.file_name().and_then(|name| name.to_str()?.strip_prefix("step-")?.parse().ok());
            if let Some(step) = step {
                steps.push((step, path));
            }
        }
        steps.sort();
        Ok(steps)
    }

    fn prune(&self, keep: usize) -> Result<(), TrainError> {
        let mut intact = 0;
        for (_, path) in self.steps()?.into_iter().rev() {
            if intact >= keep {
                fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
            } else if verify(&path).is_ok() {
                intact += 1;
            }
        }
        Ok(())
    }

    /// Removes what a killed process left half-written.
    fn remove_stale(&self) -> Result<(), TrainError> {
        if !self.folder.exists() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.folder).map_err(TrainError::io(&self.folder))? {
            let path = entry.map_err(TrainError::io(&self.folder))?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp-")) {
                fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
            }
        }
        Ok(())
    }

    /// A hint for people and scripts; this crate itself looks at the folders.
    fn point_latest_to(&self, path: &Path) -> Result<(), TrainError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let latest = self.folder.join("latest");
        let staged = self.folder.join(".latest");
        fs::write(&staged, name.as_bytes()).map_err(TrainError::io(&staged))?;
        sync(&staged)?;
        fs::rename(&staged, &latest).map_err(TrainError::io(&latest))
    }
}

/// Writes `value` as JSON and flushes it to the disk.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| TrainError::checkpoint(path, e))?;
    text.push('\n');
    let mut file = File::create(path).map_err(TrainError::io(path))?;
    file.write_all(text.as_bytes()).map_err(TrainError::io(path))?;
    file.sync_all().map_err(TrainError::io(path))
}

/// Reads JSON.
pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, TrainError> {
    let text = fs::read_to_string(path).map_err(TrainError::io(path))?;
    serde_json::from_str(&text).map_err(|e| TrainError::checkpoint(path, e))
}

fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(TrainError::io(path))
}

/// Name, length and hash of every file in `folder` but the manifest, by name.
fn entries(folder: &Path) -> Result<Vec<Entry>, TrainError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(TrainError::io(folder))? {
        let path = entry.map_err(TrainError::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == MANIFEST {
            continue;
        }
        let mut file = File::open(&path).map_err(TrainError::io(&path))?;
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer).map_err(TrainError::io(&path))? {
                0 => break,
                read => {
                    hash.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        entries.push(Entry { name, bytes, sha256: hex(&hash.finalize()) });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a text, in hexadecimal: how a checkpoint remembers the config that it belongs to.
pub fn sha256_hex(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Compares the files of a checkpoint with its manifest.
fn verify(path: &Path) -> Result<Checkpoint, TrainError> {
    let manifest: Manifest = read_json(&path.join(MANIFEST))?;
    if manifest.format != FORMAT {
        let reason =
            format!("checkpoint format {} is not {FORMAT}, which this version reads", manifest.format);
        return Err(TrainError::checkpoint(path, reason));
    }
    let found = entries(path)?;
    for entry in &manifest.files {
        if !found.contains(entry) {
            let reason = format!("{} is missing or not what the manifest says; passing over it", entry.name);
            return Err(TrainError::checkpoint(path, reason));
        }
    }
    Ok(Checkpoint { path: path.into(), step: manifest.step, config_sha256: manifest.config_sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(store: &CheckpointStore, step: u64) -> Checkpoint {
        store
            .save(step, "c0ffee", 2, |folder| {
                let path = folder.join("weights");
                fs::write(&path, step.to_le_bytes()).map_err(TrainError::io(&path))
            })
            .expect("the checkpoint is written")
    }

    #[test]
    fn keeps_two_and_points_to_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(folder.path().join("checkpoints"));
        assert_eq!(store.newest().unwrap().0, None);
        for step in [10, 20, 30] {
            save(&store, step);
        }
        let names: Vec<_> = store.steps().unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(names, [20, 30]);
        assert_eq!(fs::read_to_string(store.folder.join("latest")).unwrap(), "step-00000030");
        assert_eq!(store.newest().unwrap().0.unwrap().step, 30);
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(folder.path());
        save(&store, 1);
        let damaged = save(&store, 2);
        fs::write(damaged.path.join("weights"), b"flipped!").unwrap();
        let (newest, skipped) = store.newest().unwrap();
        assert_eq!(newest.unwrap().step, 1);
        assert!(skipped[0].to_string().contains("weights"), "{}", skipped[0]);
        // A damaged checkpoint does not count among those that are kept.
        save(&store, 3);
        assert_eq!(store.steps().unwrap().len(), 3);
    }

    #[test]
    fn a_failed_save_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::new(folder.path());
        save(&store, 1);
        let failed = store.save(2, "c0ffee", 2, |folder| Err(TrainError::checkpoint(folder, "disk full")));
        assert!(failed.is_err());
        assert_eq!(store.newest().unwrap().0.unwrap().step, 1);
        save(&store, 3);
        assert!(
            fs::read_dir(folder.path())
                .unwrap()
                .all(|e| { !e.unwrap().file_name().to_string_lossy().starts_with(".tmp") })
        );
    }
}
