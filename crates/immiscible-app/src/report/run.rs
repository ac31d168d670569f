//! What a run has left behind so far.

use crate::config;
use crate::parts::DataInfo;
use crate::train::{CONFIG, DATA, METRICS, SAMPLES};
use anyhow::{Context, Result, anyhow, ensure};
use immiscible_train::Record;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

pub(crate) struct Run {
    pub(crate) name: String,
    /// Where it is, whichever way it was given.
    pub(crate) folder: PathBuf,
    pub(crate) config: Table,
    /// Of its data, if they are written down.
    pub(crate) data: Option<DataInfo>,
    /// The lines of its log, by rising step.
    pub(crate) records: Vec<Record>,
    /// Lines that could not be read, or came again.
    pub(crate) damaged: usize,
    pub(crate) grid: Option<Grid>,
}

/// A picture of samples.
pub(crate) struct Grid {
    pub(crate) step: u64,
    pub(crate) png: Vec<u8>,
    /// Width and height in pixels.
    pub(crate) size: [u32; 2],
}

impl Run {
    /// # Errors
    /// When `folder` is not that of a run, or cannot be read. What is missing in it, or damaged, but for the config, is no error.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        ensure!(
            path.exists(),
            "{}: no {CONFIG} in it; give the directory of a run, such as runs/digits",
            folder.display()
        );
        let config = config::file(&path)?;
        let data = config::file(&folder.join(DATA)).ok().and_then(|table| table.try_into().ok());
        let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
        let (records, damaged) = records(&folder.join(METRICS))?;
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        let grid = newest_grid(&folder.join(SAMPLES));
        Ok(Self { name, folder, config, data, records, damaged, grid })
    }

    /// What the config says, or nothing.
    pub(crate) fn setting(&self, table: &str, key: &str) -> Option<&Value> {
        self.config.get(table)?.get(key)
    }

    /// Every key of the config with its value, written as in the file.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        fn walk(table: &Table, above: &str, settings: &mut BTreeMap<String, String>) {
            for (key, value) in table {
                let key = format!("{above}{key}");
                match value {
                    Value::Table(inner) => walk(inner, &format!("{key}."), settings),
                    value => drop(settings.insert(key, value.to_string())),
                }
            }
        }
        let mut settings = BTreeMap::new();
        walk(&self.config, "", &mut settings);
        settings
    }

    /// The mean of a number over all steps that were taken.
    pub(crate) fn mean(&self, of: impl Fn(&Record) -> Option<f64>) -> Option<f64> {
        let (mut sum, mut steps, mut before) = (0.0, 0.0, 0);
        for record in &self.records {
            let taken = record.step.saturating_sub(before).saturating_sub(record.skipped) as f64;
            before = record.step;
            if let Some(value) = of(record) {
                sum += taken * value;
                steps += taken;
            }
        }
        (steps > 0.0).then(|| sum / steps)
    }
}

fn records(path: &Path) -> Result<(Vec<Record>, usize)> {
    let cannot = |error| anyhow!("{}: {error}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        file => file.map_err(cannot)?,
    };
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    let (mut records, mut damaged): (Vec<Record>, usize) = (Vec::new(), 0);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(cannot)? == 0 {
            return Ok((records, damaged));
        }
        match serde_json::from_slice::<Record>(&line) {
            Ok(record) if records.last().is_none_or(|before| before.step < record.step) => {
                records.push(record);
            }
            _ => damaged += 1,
        }
    }
}

/// That of the latest step which is a picture.
fn newest_grid(folder: &Path) -> Option<Grid> {
    let mut steps: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step =
                path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".png")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    steps.sort();
    steps.into_iter().rev().find_map(|(step, path)| {
        let png = fs::read(path).ok()?;
        let picture = image::load_from_memory_with_format(&png, image::ImageFormat::Png).ok()?;
        Some(Grid { step, png, size: [picture.width(), picture.height()] })
    })
}
