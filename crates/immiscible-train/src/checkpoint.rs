//! Checkpoints that are either whole or not there.
//!
//! A checkpoint is a folder that is staged under a temporary name, flushed file by file, sealed by a manifest with the
//! length and SHA-256 of every file and of its own text, renamed, read back, and only then allowed to displace an
//! older one.

use crate::{Disk, FileSystem, TrainError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Format 1 did not seal the manifest itself.
const FORMAT: u32 = 2;
const MANIFEST: &str = "manifest.json";
/// A longer manifest is none.
const LONGEST_MANIFEST: u64 = 1 << 20;
/// How the names of what is not whole yet begin.
const STAGED: &str = ".tmp-";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    step: u64,
    config_sha256: String,
    files: Vec<Entry>,
    /// Of the text without this line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    bytes: u64,
    sha256: String,
}

impl Manifest {
    fn text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    fn sealed(mut self) -> Result<Self, serde_json::Error> {
        self.sha256 = None;
        self.sha256 = Some(sha256_hex(&self.text()?));
        Ok(self)
    }

    /// The manifest of the checkpoint in `folder`, with nothing in it that this crate has not written.
    fn read(bytes: &[u8], folder: &Path) -> Result<Self, TrainError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let refuse = |reason: String| TrainError::checkpoint(folder, reason);
        let unreadable = |error: serde_json::Error| {
            // It repeats names from the file, which may hold anything.
            let error = error.to_string().replace(char::is_control, " ");
            refuse(format!("{MANIFEST} cannot be read ({error}); passing over it"))
        };
        let Format { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if !(1..=FORMAT).contains(&format) {
            return Err(refuse(format!("format {format} is not 1 to {FORMAT}, which this version reads")));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        let expected = if format == 1 {
            Self { sha256: None, ..manifest.clone() }
        } else {
            manifest.clone().sealed().map_err(unreadable)?
        };
        if expected.text().map_err(unreadable)?.as_bytes() != bytes {
            return Err(refuse(format!("{MANIFEST} is not as it was written; passing over it")));
        }
        let mut names = BTreeSet::from([MANIFEST]);
        for Entry { name, .. } in &manifest.files {
            let plain = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(only)] if only == &**name);
            if !plain || name.contains(['/', '\\']) || !names.insert(name) {
                return Err(refuse(format!(
                    "{MANIFEST} names {name:?}, twice or elsewhere; passing over it"
                )));
            }
        }
        Ok(manifest)
    }
}

/// The parser of manifests, for the fuzzer alone: what it takes names files in the folder, each once, and is what it writes.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz_manifest(bytes: &[u8]) {
    match Manifest::read(bytes, Path::new("step-1")) {
        Ok(manifest) => {
            assert_eq!(manifest.text().unwrap().as_bytes(), bytes);
            let names: BTreeSet<_> = manifest.files.iter().map(|entry| &entry.name).collect();
            assert_eq!(names.len(), manifest.files.len());
            assert!(
                names.iter().all(|name| Path::new("step-1").join(name).parent() == Some(Path::new("step-1")))
            );
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
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

/// What [`CheckpointStore::save`] did.
#[derive(Debug)]
pub struct Saved {
    /// The checkpoint, read back.
    pub checkpoint: Checkpoint,
    /// Why an older checkpoint could not be removed, or the hint `latest` not be written.
    pub untidy: Option<TrainError>,
}

/// Takes the files of a checkpoint that is being saved.
#[derive(Debug)]
pub struct Files<'a> {
    file_system: &'a dyn FileSystem,
    folder: &'a Path,
    entries: Vec<Entry>,
}

impl<'a> Files<'a> {
    /// Writes to a folder outside any store, which must exist.
    pub fn new(folder: &'a Path) -> Self {
        Self { file_system: &Disk, folder, entries: Vec::new() }
    }

    /// Writes the file `name` of the checkpoint.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        self.put(name, bytes)?;
        // Of what was meant to be written, so that reading it back is a check.
        let sha256 = hex(&Sha256::digest(bytes));
        self.entries.push(Entry { name: name.into(), bytes: bytes.len() as u64, sha256 });
        Ok(())
    }

    /// Writes a value as JSON.
    pub(crate) fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<(), TrainError> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| TrainError::checkpoint(&self.folder.join(name), error))?;
        self.write(name, format!("{text}\n").as_bytes())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        let path = self.folder.join(name);
        self.file_system.write(&path, bytes).map_err(|source| TrainError::Write {
            wanted: bytes.len() as u64,
            free: self.file_system.free(self.folder),
            path,
            source,
        })
    }
}

/// The folder that holds the checkpoints of one run.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    folder: PathBuf,
    file_system: Arc<dyn FileSystem>,
}

impl CheckpointStore {
    /// Opens the folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self::on(Arc::new(Disk), folder)
    }

    /// The same on another file system than this machine's.
    pub fn on(file_system: Arc<dyn FileSystem>, folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), file_system }
    }

    /// The newest checkpoint whose files are intact, and for every newer one the reason why it was passed over.
    ///
    /// # Errors
    /// When the folder exists and cannot be read.
    pub fn newest(&self) -> Result<(Option<Checkpoint>, Vec<TrainError>), TrainError> {
        let mut skipped = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match self.verify(step) {
                Ok(checkpoint) => return Ok((Some(checkpoint), skipped)),
                Err(error) => skipped.push(error),
            }
        }
        Ok((None, skipped))
    }

    /// Reads every checkpoint, the newest first.
    ///
    /// # Errors
    /// When the folder exists and cannot be read.
    pub fn check(&self) -> Result<Vec<Result<Checkpoint, TrainError>>, TrainError> {
        Ok(self.steps()?.into_iter().rev().map(|step| self.verify(step)).collect())
    }

    /// Saves a checkpoint of `step`: `write` is given what takes its files. The `keep` newest intact checkpoints stay, at
    /// least 2. An intact one of the same step stays what it is.
    ///
    /// # Errors
    /// When a file cannot be written or does not read back as written; intact checkpoints are then untouched, and it may
    /// be tried again.
    pub fn save(
        &self,
        step: u64,
        config_sha256: &str,
        keep: usize,
        write: impl FnOnce(&mut Files) -> Result<(), TrainError>,
    ) -> Result<Saved, TrainError> {
        self.remove_stale()?;
        let there = match self.verify(step) {
            Ok(checkpoint) if checkpoint.config_sha256 != config_sha256 => {
                let reason = "it is the checkpoint of another config; save to another folder";
                return Err(TrainError::checkpoint(&checkpoint.path, reason));
            }
            Ok(_) => true,
            Err(TrainError::Checkpoint { .. }) => false,
            // It may be intact, and only not be readable now.
            Err(error) => return Err(error),
        };
        if !there {
            let staged = self.folder.join(format!("{STAGED}{step:08}-{}", std::process::id()));
            if let Err(error) = self.stage(&staged, step, config_sha256, write) {
                // Half a checkpoint must not fill the disk. What cannot be removed now is at the next start.
                let _ = self.file_system.remove(&staged);
                return Err(error);
            }
        }
        self.file_system.sync_folder(&self.folder).map_err(TrainError::io(&self.folder))?;
        let checkpoint = self.verify(step)?;
        let untidy = self.point_latest_to(step).and_then(|()| self.prune(keep.max(2))).err();
        Ok(Saved { checkpoint, untidy })
    }

    /// Writes a checkpoint under a temporary name, and gives it its own.
    fn stage(
        &self,
        staged: &Path,
        step: u64,
        config_sha256: &str,
        write: impl FnOnce(&mut Files) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let file_system = &*self.file_system;
        self.check_space()?;
        file_system.create_folder(staged).map_err(TrainError::io(staged))?;
        let mut files = Files { file_system, folder: staged, entries: Vec::new() };
        write(&mut files)?;
        files.entries.sort_by(|a, b| a.name.cmp(&b.name));
        let entries = std::mem::take(&mut files.entries);
        let manifest = Manifest {
            format: FORMAT,
            step,
            config_sha256: config_sha256.into(),
            files: entries,
            sha256: None,
        };
        let text = manifest.sealed().and_then(|manifest| manifest.text());
        let text = text.map_err(|error| TrainError::checkpoint(staged, error))?;
        files.put(MANIFEST, text.as_bytes())?;
        file_system.sync_folder(staged).map_err(TrainError::io(staged))?;

        // A damaged one of that name.
        self.discard(step)?;
        let path = self.path_of(step);
        file_system.rename(staged, &path).map_err(TrainError::io(&path))
    }

    /// Whether there is room for another checkpoint like the newest, and a fifth more: the disk is not this run's alone.
    fn check_space(&self) -> Result<(), TrainError> {
        let Some(newest) = self.steps()?.last().map(|step| self.path_of(*step)) else {
            return Ok(());
        };
        let (Ok(manifest), Some(free)) = (self.manifest(&newest), self.file_system.free(&self.folder)) else {
            return Ok(());
        };
        let wanted = manifest.files.iter().fold(0, |sum: u64, entry| sum.saturating_add(entry.bytes));
        let wanted = wanted.saturating_add(wanted / 5);
        if free >= wanted {
            return Ok(());
        }
        let (path, source) = (self.folder.clone(), io::Error::from(ErrorKind::StorageFull));
        Err(TrainError::Write { path, wanted, free: Some(free), source })
    }

    fn path_of(&self, step: u64) -> PathBuf {
        self.folder.join(name_of(step))
    }

    /// The steps of all checkpoints, whole or not, oldest first.
    fn steps(&self) -> Result<Vec<u64>, TrainError> {
        let names = self.file_system.list(&self.folder).map_err(TrainError::io(&self.folder))?;
        let step_of = |name: &String| {
            let step = name.strip_prefix("step-")?.parse().ok()?;
            (name_of(step) == *name).then_some(step)
        };
        let mut steps: Vec<u64> = names.iter().filter_map(step_of).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn prune(&self, keep: usize) -> Result<(), TrainError> {
        let mut intact = 0;
        for step in self.steps()?.into_iter().rev() {
            if intact >= keep {
                self.discard(step)?;
            } else if self.verify(step).is_ok() {
                intact += 1;
            }
        }
        Ok(())
    }

    /// Removes a checkpoint, if there is one. Half removed it no longer has the name of one.
    fn discard(&self, step: u64) -> Result<(), TrainError> {
        let (path, gone) = (self.path_of(step), self.folder.join(format!("{STAGED}old-{step:08}")));
        match self.file_system.rename(&path, &gone) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(TrainError::io(&path))?,
        }
        self.file_system.remove(&gone).map_err(TrainError::io(&gone))
    }

    /// Removes what a killed process left half-written.
    pub(crate) fn remove_stale(&self) -> Result<(), TrainError> {
        for name in self.file_system.list(&self.folder).map_err(TrainError::io(&self.folder))? {
            if name.starts_with(STAGED) {
                let path = self.folder.join(name);
                self.file_system.remove(&path).map_err(TrainError::io(&path))?;
            }
        }
        Ok(())
    }

    /// A hint for people and scripts; this crate itself looks at the folders.
    fn point_latest_to(&self, step: u64) -> Result<(), TrainError> {
        let (latest, staged) = (self.folder.join("latest"), self.folder.join(".latest"));
        self.file_system.write(&staged, name_of(step).as_bytes()).map_err(TrainError::io(&staged))?;
        self.file_system.rename(&staged, &latest).map_err(TrainError::io(&latest))
    }

    /// Compares the files of a checkpoint with its manifest.
    fn verify(&self, step: u64) -> Result<Checkpoint, TrainError> {
        let path = self.path_of(step);
        let manifest = self.manifest(&path)?;
        if manifest.step != step {
            let reason = format!("its manifest is of step {}; passing over it", manifest.step);
            return Err(TrainError::checkpoint(&path, reason));
        }
        for entry in &manifest.files {
            if self.entry(&path, entry)? != *entry {
                let reason = format!("{} is not what the manifest says; passing over it", entry.name);
                return Err(TrainError::checkpoint(&path, reason));
            }
        }
        Ok(Checkpoint { path, step, config_sha256: manifest.config_sha256 })
    }

    /// The manifest of a checkpoint.
    fn manifest(&self, folder: &Path) -> Result<Manifest, TrainError> {
        let mut bytes = Vec::new();
        let file = self.open(folder, MANIFEST)?;
        file.take(LONGEST_MANIFEST)
            .read_to_end(&mut bytes)
            .map_err(TrainError::io(&folder.join(MANIFEST)))?;
        Manifest::read(&bytes, folder)
    }

    /// What is found under the name of an entry. Reading stops where it is too long.
    fn entry(&self, folder: &Path, expected: &Entry) -> Result<Entry, TrainError> {
        let name = expected.name.clone();
        let path = folder.join(&name);
        let mut file = self.open(folder, &name)?.take(expected.bytes.saturating_add(1));
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
        Ok(Entry { name, bytes, sha256: hex(&hash.finalize()) })
    }

    /// A file of a checkpoint. Where there is none, the checkpoint is damaged; other failures may pass.
    fn open(&self, folder: &Path, name: &str) -> Result<Box<dyn Read>, TrainError> {
        let path = folder.join(name);
        self.file_system.open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                TrainError::checkpoint(folder, format!("{name} is missing or no file; passing over it"))
            }
            _ => TrainError::Io { path, source: error },
        })
    }
}

fn name_of(step: u64) -> String {
    format!("step-{step:08}")
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a text, in hexadecimal: how a checkpoint remembers the config that it belongs to.
pub fn sha256_hex(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}
