//! One file for each format.

use std::path::Path;

use crate::DataError;

pub(crate) mod array;
pub(crate) mod cifar;
pub(crate) mod digits;
pub(crate) mod encoded;
pub(crate) mod folder;
pub(crate) mod idx;
pub(crate) mod latents;
pub(crate) mod npy;
pub(crate) mod npz;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
pub(crate) mod tar;

/// Labels are numbers of classes, and each of them has a name: more are a mistake.
const MAX_CLASSES: u32 = 1 << 16;

/// What a library says about a file, in one line and not too long: it may quote the file.
pub(crate) fn short(error: &dyn std::error::Error) -> String {
    let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    line.escape_debug().take(200).collect()
}

/// The names `"0"`, `"1"`, … of as many classes as the labels say; `path` is for messages.
pub(crate) fn numbered(path: &Path, labels: impl IntoIterator<Item = u32>) -> Result<Vec<String>, DataError> {
    let most = labels.into_iter().max().map_or(0, |label| u64::from(label) + 1);
    if most > MAX_CLASSES.into() {
        let reason = format!("has the label {}, and {MAX_CLASSES} classes at most are taken", most - 1);
        return Err(DataError::Format { path: path.into(), reason });
    }
    Ok((0..most).map(|class| class.to_string()).collect())
}
