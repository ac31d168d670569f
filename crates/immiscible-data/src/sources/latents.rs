//! `latents`: what an autoencoder made of images, in one safetensors file: `latents` `[N, C, H, W]` of float16, bfloat16
//! or float32, and the vector `labels` of integers if the images have any. They stay on disk, and are read as they are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::encoded::Labels;
use super::{numbered, short};
use crate::bytes::Bytes;
use crate::source::check_request;
use crate::{DataError, DataOptions, LatentInfo, Source};

/// The longest header that is read: latents have two tensors.
const MAX_HEADER: u64 = 1 << 20;
/// The key of the metadata that says what classes are called: a JSON list.
const CLASSES: &str = "classes";

pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&["path"])?;
    let path = options.require_path("the .safetensors file that `immiscible data encode` wrote")?;
    Ok(Box::new(Latents::open(Bytes::open(path)?, path, &options.name)?))
}

pub(crate) struct Latents {
    name: String,
    path: PathBuf,
    bytes: Bytes,
    kind: Dtype,
    /// Where the values begin.
    start: u64,
    len: usize,
    shape: [usize; 3],
    labels: Option<Labels>,
    info: LatentInfo,
}

impl Latents {
    pub(crate) fn open(bytes: Bytes, path: &Path, name: &str) -> Result<Self, DataError> {
        let format = |reason: String| DataError::Format { path: path.into(), reason };
        let read = |at, out: &mut [u8]| {
            bytes.read_at(at, out).map_err(|source| DataError::Io { path: path.into(), source })
        };
        let mut len = [0; 8];
        if bytes.len() < 8 {
            return Err(format("is no safetensors file: it ends within its header".into()));
        }
        read(0, &mut len)?;
        let len = u64::from_le_bytes(len);
        let start = len.saturating_add(8);
        if len > MAX_HEADER || start > bytes.len() {
            return Err(format(format!("is no safetensors file of latents: its header has {len} bytes")));
        }
        let mut header = vec![0; len as usize];
        read(8, &mut header)?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| format(format!("has a header that cannot be understood ({})", short(&error))))?;
        let (promised, found) = (header.data_len() as u64, bytes.len() - start);
        if promised != found {
            return Err(format(format!(
                "has {found} bytes behind its header where that promises {promised}"
            )));
        }
        let Some(info) = header.info("latents") else {
            let names: String = header.offset_keys().join(", ").chars().take(200).collect();
            return Err(format(format!("has no tensor called latents; it has {names:?}")));
        };
        let &[count, c, h, w] = &info.shape[..] else {
            return Err(format(format!("has latents of the shape {:?}, not [N, C, H, W]", info.shape)));
        };
        if [count, c, h, w].contains(&0) {
            return Err(format(format!("has latents of the shape {:?} and so no values", info.shape)));
        }
        let kind = info.dtype;
        if !matches!(kind, Dtype::F16 | Dtype::BF16 | Dtype::F32) {
            return Err(format(format!("has latents of the type {kind:?}; F16, BF16 and F32 are read")));
        }
        let values = start + info.data_offsets.0 as u64;
        let labels = match header.info("labels") {
            Some(info) => {
                let part = bytes.slice(start + info.data_offsets.0 as u64, tensor_bytes(info));
                let raw = part.ok_or_else(|| format("ends within its labels".into()))?;
                let labels = labels(&raw, info, path)?;
                if labels.len() != count {
                    return Err(DataError::LabelCount { labels: labels.len(), images: count });
                }
                let classes = classes(header.metadata().as_ref(), &labels, path)?;
                Some((labels, classes))
            }
            None => None,
        };
        let info = latent_info(header.metadata().as_ref()).map_err(format)?;
        let (name, path) = (name.into(), path.into());
        Ok(Self { name, path, bytes, kind, start: values, len: count, shape: [c, h, w], labels, info })
    }
}

fn tensor_bytes(info: &TensorInfo) -> u64 {
    (info.data_offsets.1 - info.data_offsets.0) as u64
}

fn labels(bytes: &Bytes, info: &TensorInfo, path: &Path) -> Result<Vec<u32>, DataError> {
    let format = |reason: String| DataError::Format { path: path.into(), reason };
    if info.shape.len() != 1 {
        return Err(format(format!("has labels of the shape {:?}, not one for each image", info.shape)));
    }
    let raw = bytes.all(crate::file::MAX_BYTES, path)?;
    let label = |value: i64| {
        u32::try_from(value).map_err(|_| format(format!("has the label {value}, which names no class")))
    };
    match info.dtype {
        Dtype::U8 => Ok(raw.iter().copied().map(u32::from).collect()),
        Dtype::I32 => raw.as_chunks().0.iter().map(|&v| label(i32::from_le_bytes(v).into())).collect(),
        Dtype::U32 => Ok(raw.as_chunks().0.iter().map(|&v| u32::from_le_bytes(v)).collect()),
        Dtype::I64 => raw.as_chunks().0.iter().map(|&v| label(i64::from_le_bytes(v))).collect(),
        other => Err(format(format!("has labels of the type {other:?}; U8, I32, U32 and I64 are read"))),
    }
}

fn classes(
    metadata: Option<&HashMap<String, String>>,
    labels: &[u32],
    path: &Path,
) -> Result<Vec<String>, DataError> {
    let numbered = numbered(path, labels.iter().copied())?;
    let Some(text) = metadata.and_then(|metadata| metadata.get(CLASSES)) else {
        return Ok(numbered);
    };
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(names) if names.len() >= numbered.len() => Ok(names),
        _ => {
            let reason = format!("has {} classes, and their names do not fit", numbered.len());
            Err(DataError::Format { path: path.into(), reason })
        }
    }
}

fn latent_info(metadata: Option<&HashMap<String, String>>) -> Result<LatentInfo, String> {
    let get = |key: &str| metadata.and_then(|metadata| metadata.get(key));
    let number = |key: &str| match get(key).map(|text| text.parse::<f64>()) {
        None => Ok(None),
        Some(Ok(value)) if value.is_finite() => Ok(Some(value)),
        Some(_) => Err(format!("says a {key} that is no number")),
    };
    Ok(LatentInfo {
        scaling_factor: number("scaling_factor")?,
        shift_factor: number("shift_factor")?,
        vae_sha256: get("vae_sha256").cloned(),
    })
}

impl Source for Latents {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.len
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn classes(&self) -> Option<&[String]> {
        self.labels.as_ref().map(|(_, classes)| classes.as_slice())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.0.get(index).copied()
    }

    fn holds_real_numbers(&self) -> bool {
        true
    }

    fn latents(&self) -> Option<&LatentInfo> {
        Some(&self.info)
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        check_request(self, index, out)?;
        let size = if self.kind == Dtype::F32 { 4 } else { 2 };
        let mut raw = vec![0; out.len() * size];
        let at = self.start + (index * raw.len()) as u64;
        self.bytes
            .read_at(at, &mut raw)
            .map_err(|source| DataError::Io { path: self.path.clone(), source })?;
        match self.kind {
            Dtype::F32 => {
                out.iter_mut().zip(raw.as_chunks().0).for_each(|(out, &raw)| *out = f32::from_le_bytes(raw))
            }
            Dtype::F16 => out
                .iter_mut()
                .zip(raw.as_chunks().0)
                .for_each(|(out, &raw)| *out = f16::from_le_bytes(raw).into()),
            _ => out
                .iter_mut()
                .zip(raw.as_chunks().0)
                .for_each(|(out, &raw)| *out = bf16::from_le_bytes(raw).into()),
        }
        match out.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(DataError::NpyValue {
                path: self.path.clone(),
                index: vec![index, at],
                value: out[at].to_string(),
                outside: "no finite number, at that place of that latent; encode the data again",
            }),
            None => Ok(()),
        }
    }
}
