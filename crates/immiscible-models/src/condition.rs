use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

/// What a sample is generated *from*, next to its time.
///
/// Conditions are made outside the networks, so that dropping, perturbing or corrupting one is a
/// function `Condition -> Condition` that every network shares; no network drops labels by itself.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a step")]
pub enum Condition {
    /// Unconditional.
    #[default]
    None,
    /// One class per sample, `[B]`. The index after the last class is the null class of
    /// classifier-free guidance, for networks that hold a row for it
    /// (see [`NetworkConfig::class_rows`](crate::NetworkConfig::class_rows)).
    Class(Tensor<1, Int>),
    /// One vector per sample, `[B, D]`, made outside: networks with `class_embed_type` = `"identity"` add
    /// it to the embedding of the time.
    Embedding(Tensor<2>),
    /// The states of a text encoder, `[B, N, D]`: N tokens, D as in the `cross_attention_dim` of the
    /// network.
    Text(Tensor<3>),
}

impl Condition {
    /// The class condition of a batch with these labels.
    ///
    /// Labels must be smaller than the network's
    /// [`class_rows`](crate::NetworkConfig::class_rows); a device does not check them.
    pub fn classes(labels: &[u32], device: &Device) -> Self {
        let labels: Vec<i64> = labels.iter().map(|&label| label.into()).collect();
        let shape = [labels.len()];
        Self::Class(Tensor::from_data(TensorData::new(labels, shape), device))
    }

    /// The number of samples it describes; `None` if it fits a batch of any size.
    pub fn batch(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Class(labels) => Some(labels.dims()[0]),
            Self::Embedding(vectors) => Some(vectors.dims()[0]),
            Self::Text(states) => Some(states.dims()[0]),
        }
    }

    /// The conditions of several batches, one after the other; [`None`](Self::None) if they are not of one kind.
    pub fn cat(conditions: Vec<Self>) -> Self {
        let mut conditions = conditions.into_iter();
        let first = conditions.next().unwrap_or_default();
        conditions.fold(first, |all, next| match (all, next) {
            (Self::Class(a), Self::Class(b)) => Self::Class(Tensor::cat(vec![a, b], 0)),
            (Self::Embedding(a), Self::Embedding(b)) => Self::Embedding(Tensor::cat(vec![a, b], 0)),
            (Self::Text(a), Self::Text(b)) => Self::Text(Tensor::cat(vec![a, b], 0)),
            _ => Self::None,
        })
    }

    /// The condition of the samples in `rows`.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        match self {
            Self::None => Self::None,
            Self::Class(labels) => Self::Class(labels.clone().slice([rows])),
            Self::Embedding(vectors) => Self::Embedding(vectors.clone().slice([rows])),
            Self::Text(states) => Self::Text(states.clone().slice([rows])),
        }
    }

    /// The same on another device.
    pub fn to_device(self, device: &Device) -> Self {
        match self {
            Self::None => Self::None,
            Self::Class(labels) => Self::Class(labels.to_device(device)),
            Self::Embedding(vectors) => Self::Embedding(vectors.to_device(device)),
            Self::Text(states) => Self::Text(states.to_device(device)),
        }
    }

    /// The condition of the samples that `rows` names, `[n]`, in that order.
    pub fn select(&self, rows: Tensor<1, Int>) -> Self {
        match self {
            Self::None => Self::None,
            Self::Class(labels) => Self::Class(labels.clone().select(0, rows)),
            Self::Embedding(vectors) => Self::Embedding(vectors.clone().select(0, rows)),
            Self::Text(states) => Self::Text(states.clone().select(0, rows)),
        }
    }
}
