//! `immiscible data encode`.
//!
//! The file has its labels first and its latents last, so that it grows to its end, and an interrupted run goes on with
//! what is there: `FILE.partial`, which gets its name when it is whole.

use super::options;
use crate::latent::{LatentConfig, PosteriorKind};
use crate::{Failure, cli, device};
use anyhow::{Context, Result, ensure};
use immiscible_data::{Batch, Source, build};
use immiscible_random::Key;
use immiscible_train::Latents;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Images that are read and encoded together. The draw of an image depends on its place in the chunk: never change this.
const CHUNK: usize = 32;

/// Encodes, and says what was written.
pub(crate) fn run(arguments: &cli::DataEncode) -> Result<(), Failure> {
    let job = Job::open(arguments).map_err(Failure::usage)?;
    job.run().map_err(Failure::run)?;
    let [c, h, w] = job.shape;
    println!("{} latents of {c}×{h}×{w}: {}", job.source.len(), arguments.out.display());
    println!("train on them with --set 'data={{name=\"latents\", path={:?}}}'", arguments.out);
    Ok(())
}

struct Job {
    source: Box<dyn Source>,
    latents: Latents,
    /// `[C, h, w]` of a latent.
    shape: [usize; 3],
    key: Key,
    /// All that comes before the latents.
    head: Vec<u8>,
    out: PathBuf,
    partial: PathBuf,
}

impl Job {
    /// Everything that can be wrong is checked here.
    fn open(arguments: &cli::DataEncode) -> Result<Self> {
        let (name, path) = match arguments.data.split_once(':') {
            Some((name, path)) => (name, Some(Path::new(path))),
            None => (&*arguments.data, None),
        };
        let options = options(name, path, &arguments.set)?;
        let out = arguments.out.clone();
        ensure!(
            out.extension().is_some_and(|extension| extension == "safetensors"),
            "--out {}: write a name that ends in .safetensors",
            out.display()
        );
        ensure!(!out.exists(), "--out {}: it is there already; name another", out.display());
        let source = build(&options)?;
        ensure!(source.latents().is_none(), "DATA = {}: it is latents already", arguments.data);

        let posterior = if arguments.sample { PosteriorKind::Sample } else { PosteriorKind::Mean };
        let config = LatentConfig {
            vae: Some(arguments.vae.clone()),
            text_encoder: None,
            prompt: "{}".into(),
            posterior,
        };
        let plan = config.plan(source.shape()).map_err(|error| said_of_flag(&error))?;
        let device = device::by_name(&arguments.device)?;
        let space = config.open(&device).map_err(|error| said_of_flag(&error))?;
        let vae = &space.vae.config;
        let mut metadata = json!({
            "format": "pt",
            "data": source.name(),
            "posterior": posterior,
            "scaling_factor": vae.scaling_factor.to_string(),
            "shift_factor": vae.shift_factor.unwrap_or(0.0).to_string(),
            "seed": arguments.seed.to_string(),
        });
        if let Some(hash) = config.weights_sha256()? {
            metadata["vae_sha256"] = hash.into();
        }
        let head = head(&*source, plan.shape, metadata)?;
        let sample = posterior == PosteriorKind::Sample;
        let latents = Latents::new(space.vae.network.clone(), plan.shape[0], space.factor(), sample, &device);
        let partial = PathBuf::from(format!("{}.partial", out.display()));
        Ok(Self { source, latents, shape: plan.shape, key: Key::new(arguments.seed), head, out, partial })
    }

    fn run(&self) -> Result<()> {
        let (mut file, done) = self.begin().with_context(|| self.partial.display().to_string())?;
        let rows = self.source.len();
        let bar = ProgressBar::new(rows as u64)
            .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} images {per_sec} {eta}")?);
        bar.set_position(done as u64);
        for first in (done..rows).step_by(CHUNK) {
            let index = (first..rows.min(first + CHUNK)).map(|index| index as u64).collect();
            let batch = Batch::read(&*self.source, index)?;
            let latents = self.latents.encode(&batch.images, self.key.step((first / CHUNK) as u64))?;
            ensure!(
                latents.iter().all(|value| value.is_finite()),
                "the autoencoder makes no finite latents of samples {first} to {}; try another --device",
                first + batch.index.len() - 1
            );
            let bytes: Vec<u8> = latents.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write_all(&bytes).with_context(|| self.partial.display().to_string())?;
            bar.inc(batch.index.len() as u64);
        }
        bar.finish_and_clear();
        file.into_inner()?.sync_all().with_context(|| self.partial.display().to_string())?;
        fs::rename(&self.partial, &self.out).with_context(|| self.out.display().to_string())
    }

    /// The file at the place where it goes on, and how many samples it holds.
    fn begin(&self) -> Result<(BufWriter<File>, usize)> {
        if let Some(folder) = self.out.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.partial)?;
        let mut head = vec![0; self.head.len()];
        let same = file.read_exact(&mut head).is_ok() && head == self.head;
        let row = 4 * self.shape.iter().product::<usize>();
        let mut done = 0;
        if same {
            let whole = (file.metadata()?.len() - head.len() as u64) / (CHUNK * row) as u64;
            done = (whole as usize * CHUNK).min(self.source.len() / CHUNK * CHUNK);
        }
        file.set_len((if same { head.len() + done * row } else { 0 }) as u64)?;
        file.seek(SeekFrom::End(0))?;
        if !same {
            file.write_all(&self.head)?;
        }
        Ok((BufWriter::new(file), done))
    }
}

/// What is wrong with a key of the config, which a flag stands for here.
fn said_of_flag(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{}", crate::one_line(error).replace("latent.vae", "--vae"))
}

/// The header of the file in the layout of safetensors, and the labels.
fn head(source: &dyn Source, shape: [usize; 3], mut metadata: serde_json::Value) -> Result<Vec<u8>> {
    let rows = source.len();
    let labels: Vec<i64> = match source.classes() {
        Some(_) => (0..rows).map(|index| i64::from(source.label(index).unwrap_or_default())).collect(),
        None => Vec::new(),
    };
    if let Some(classes) = source.classes() {
        metadata["classes"] = serde_json::to_string(classes)?.into();
    }
    let labels_end = 8 * labels.len();
    let end = labels_end + 4 * rows * shape.iter().product::<usize>();
    let [c, h, w] = shape;
    let mut header = json!({
        "__metadata__": metadata,
        "latents": { "dtype": "F32", "shape": [rows, c, h, w], "data_offsets": [labels_end, end] },
    });
    if !labels.is_empty() {
        header["labels"] = json!({ "dtype": "I64", "shape": [rows], "data_offsets": [0, labels_end] });
    }
    let mut header = header.to_string();
    // Values begin at a multiple of 8.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.extend(header.as_bytes());
    head.extend(labels.into_iter().flat_map(i64::to_le_bytes));
    Ok(head)
}
