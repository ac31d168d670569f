//! `tar`: archives in which the files of a sample have one name and different endings, `0001.jpg` and `0001.cls`
//! (the convention of webdataset). They are indexed once, and read from anywhere.
//!
//! A label is a number in KEY.cls, or the entry `label` or `cls` of KEY.json.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::encoded::{Encoded, OPTIONS, Store};
use super::{numbered, short};
use crate::bytes::{Bytes, inside};
use crate::file;
use crate::image_file::is_image;
use crate::{DataError, DataOptions, Source};

/// The longest label file that is read.
const MAX_LABEL: u64 = 1 << 20;

pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&[&["path"], &OPTIONS[..]].concat())?;
    let path = options.require_path("a .tar archive of images, or a folder of such archives")?;
    let paths = if path.is_dir() { shards(path)? } else { vec![path.to_owned()] };
    let mut shards = Shards::default();
    for path in paths {
        shards.add(Bytes::open(&path)?, path)?;
    }
    let labels = shards.labels(path)?;
    Ok(Box::new(Encoded::open(options, Box::new(shards), labels)?))
}

/// The archives of a folder in the order of their names.
fn shards(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = file::entries(folder)?;
    paths
        .retain(|path| path.is_file() && path.extension().is_some_and(|end| end.eq_ignore_ascii_case("tar")));
    match paths.is_empty() {
        true => Err(DataError::NoFiles { path: folder.into(), wanted: ".tar archive".into() }),
        false => Ok(paths),
    }
}

struct Sample {
    shard: usize,
    /// Of the image in its archive.
    name: String,
    image: Bytes,
    label: Option<u32>,
}

#[derive(Default)]
pub(crate) struct Shards {
    paths: Vec<PathBuf>,
    samples: Vec<Sample>,
}

impl Shards {
    /// Indexes an archive.
    pub(crate) fn add(&mut self, bytes: Bytes, path: PathBuf) -> Result<(), DataError> {
        let format = |reason: String| DataError::Format { path: path.clone(), reason };
        let broken =
            |error: std::io::Error| format(format!("is no complete tar archive ({})", short(&error)));
        let (shard, first) = (self.paths.len(), self.samples.len());
        let mut labels: HashMap<String, u32> = HashMap::new();
        let mut keys: HashMap<String, usize> = HashMap::new();
        let mut archive = tar::Archive::new(BufReader::new(bytes.reader()));
        for entry in archive.entries_with_seek().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            if entry.header().entry_type() != tar::EntryType::Regular {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
            let Some((stem, ending)) = file.split_once('.').filter(|(stem, _)| !stem.is_empty()) else {
                continue;
            };
            let key = format!("{folder}/{stem}");
            let shown = || inside(&path, &name).display().to_string();
            let content = bytes.slice(entry.raw_file_position(), entry.size());
            let content = content.ok_or_else(|| format(format!("ends within {}", shown())))?;
            match ending.to_ascii_lowercase().as_str() {
                ending if is_image(Path::new(file)) && !ending.is_empty() => {
                    if keys.insert(key, self.samples.len()).is_some() {
                        return Err(format(format!("has two images of one name: {}", shown())));
                    }
                    self.samples.push(Sample { shard, name, image: content, label: None });
                }
                ending @ ("cls" | "json") => {
                    let text = content.all(MAX_LABEL, &inside(&path, &name))?;
                    let label = if ending == "cls" { of_text(&text) } else { of_json(&text) };
                    match label {
                        Some(label) => drop(labels.insert(key, label)),
                        None if ending == "json" => {}
                        None => return Err(format(format!("has a label that is no number in {}", shown()))),
                    }
                }
                _ => {}
            }
        }
        if self.samples.len() == first {
            return Err(DataError::NoFiles { path, wanted: "image, such as 0001.jpg with 0001.cls".into() });
        }
        for (key, index) in keys {
            self.samples[index].label = labels.get(&key).copied();
        }
        self.paths.push(path);
        Ok(())
    }

    /// The labels of all samples, or none.
    pub(crate) fn labels(&self, path: &Path) -> Result<Option<super::encoded::Labels>, DataError> {
        let labels: Vec<u32> = self.samples.iter().filter_map(|sample| sample.label).collect();
        if labels.is_empty() {
            return Ok(None);
        }
        if let Some(index) = self.samples.iter().position(|sample| sample.label.is_none()) {
            let reason = "has no label, and others have; add KEY.cls, or remove them all".into();
            return Err(DataError::Format { path: self.path(index), reason });
        }
        let classes = numbered(path, labels.iter().copied())?;
        Ok(Some((labels, classes)))
    }
}

fn of_text(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn of_json(text: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let label = ["label", "cls"].into_iter().find_map(|key| value.get(key)?.as_u64());
    u32::try_from(label?).ok()
}

impl Store for Shards {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn path(&self, index: usize) -> PathBuf {
        let sample = &self.samples[index];
        inside(&self.paths[sample.shard], &sample.name)
    }

    fn bytes(&self, index: usize) -> Result<Bytes, DataError> {
        Ok(self.samples[index].image.clone())
    }
}
