use std::path::PathBuf;

use serde::Serialize;

/// What can go wrong when a network is configured, built, saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A field of a network's configuration has a value the network cannot be built with.
    #[error("network setting `{field}` = {value} is not possible: {remedy}")]
    Config {
        /// Name of the field, as in `config.json`.
        field: &'static str,
        /// The offending value.
        value: String,
        /// What to change.
        remedy: String,
    },
    /// `config.json` is not JSON, or holds a field or a value this crate does not know.
    #[error("cannot read the network's config.json: {0}")]
    Json(#[from] serde_json::Error),
    /// The tensors of a weights file are not those of the network.
    #[error(
        "the weights do not fit the network ({}); check that config.json and weights belong together",
        mismatch(missing, extra, misshapen)
    )]
    Mismatch {
        /// Tensors of the network that the file lacks.
        missing: Vec<String>,
        /// Tensors of the file that the network lacks.
        extra: Vec<String>,
        /// Tensors in both whose shapes differ, each as `name (file [..], network [..])`.
        misshapen: Vec<String>,
    },
    /// A text cannot be turned into tokens.
    #[error("cannot encode the text: {0}")]
    Text(String),
    /// A file of a model cannot be read or written.
    #[error("cannot {action}{}: {reason}", .path.as_ref().map(|p| format!(" `{}`", p.display())).unwrap_or_default())]
    File {
        /// `read the weights`, `write config.json` …
        action: &'static str,
        /// The file, if there is one.
        path: Option<PathBuf>,
        /// What the file system or the format said.
        reason: String,
    },
}

impl ModelError {
    /// A [`ModelError::Config`].
    pub(crate) fn config(
        field: &'static str,
        value: &(impl Serialize + ?Sized),
        remedy: impl Into<String>,
    ) -> Self {
        Self::Config { field, value: json(value), remedy: remedy.into() }
    }
}

/// A value as it stands in `config.json`.
pub(crate) fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}

/// The first few names of each kind: a wrong file differs in hundreds of tensors.
fn mismatch(missing: &[String], extra: &[String], misshapen: &[String]) -> String {
    const SHOWN: usize = 5;
    [("missing", missing), ("not in the network", extra), ("of another shape", misshapen)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| {
            let more = names.len().saturating_sub(SHOWN);
            let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{what}: {}{tail}", names[..names.len().min(SHOWN)].join(", "))
        })
        .collect::<Vec<_>>()
        .join("; ")
}
