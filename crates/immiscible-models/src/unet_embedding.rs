//! What a UNet embeds next to its images: the time and the class.

use std::f64::consts::PI;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{DType, Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::hook::Trace;
use crate::resnet::ActFn;
use crate::time::{TimestepEmbedding, sinusoid};
use crate::{Condition, TimeInput};

/// How a UNet represents the time before the layers that embed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeEmbeddingType {
    /// Sinusoids of fixed frequencies (Ho et al. 2020, appendix B).
    Positional,
    /// Sinusoids of log t with random frequencies (Song et al. 2021, appendix C). The prediction is
    /// divided by t, which must be above 0.
    Fourier,
    /// A row of a table per time.
    Learned,
}

/// How a UNet embeds the class where it does not look it up in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassEmbedType {
    /// The number of the class is embedded as times are.
    Timestep,
    /// There is no class, but an embedding from outside: [`Condition::Embedding`].
    Identity,
}

/// [`TimeEmbeddingType`] with its weights.
#[derive(Module, Debug)]
pub(crate) enum TimeProjection {
    Positional(Sinusoid),
    Fourier(GaussianFourierProjection),
    Learned(Embedding),
}

/// Settings of the sinusoids of fixed frequencies.
#[derive(Module, Debug)]
pub(crate) struct Sinusoid {
    pub(crate) channels: usize,
    pub(crate) cos_first: bool,
    pub(crate) shift: usize,
}

impl TimeProjection {
    pub(crate) fn fourier(channels: usize, device: &Device) -> Self {
        Self::Fourier(GaussianFourierProjection::new(channels, device))
    }

    pub(crate) fn learned(times: usize, channels: usize, device: &Device) -> Self {
        Self::Learned(EmbeddingConfig::new(times, channels).init(device))
    }

    /// # Shapes
    /// `[B]` → `[B, channels]`; twice as many for Fourier features.
    fn forward(&self, u: Tensor<1>, idx: Tensor<1, Int>) -> Tensor<2> {
        match self {
            Self::Positional(Sinusoid { channels, cos_first, shift }) => {
                sinusoid(u, *channels, *cos_first, *shift)
            }
            Self::Fourier(fourier) => fourier.forward(u),
            Self::Learned(table) => lookup(table, idx),
        }
    }
}

/// Standard deviation of the frequencies (Song et al. 2021, code).
const SCALE: f64 = 16.0;

/// `[sin 2πw log t, cos 2πw log t]` with random frequencies w that are not trained
/// (Tancik et al. 2020, §4).
#[derive(Module, Debug)]
pub(crate) struct GaussianFourierProjection {
    weight: Param<Tensor<1>>,
}

impl GaussianFourierProjection {
    fn new(channels: usize, device: &Device) -> Self {
        let weight: Param<Tensor<1>> = Initializer::Normal { mean: 0.0, std: SCALE }.init([channels], device);
        Self { weight: weight.set_require_grad(false) }
    }

    fn forward(&self, t: Tensor<1>) -> Tensor<2> {
        let w = self.weight.val().cast(DType::F32).unsqueeze_dim::<2>(0);
        // Rounded to f32 where PyTorch rounds: phases are large.
        let phase = t.cast(DType::F32).log().unsqueeze_dim::<2>(1) * w * 2.0 * PI;
        Tensor::cat(vec![phase.clone().sin(), phase.cos()], 1)
    }
}

/// Where the embedding of the class comes from.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has one of it")]
pub(crate) enum ClassEmbedding {
    Table(Embedding),
    Timestep(TimestepEmbedding),
}

/// Settings of the embedding of the class.
#[derive(Clone, Copy)]
pub(crate) struct ClassPlan {
    pub(crate) kind: Option<ClassEmbedType>,
    pub(crate) rows: Option<usize>,
}

impl ClassPlan {
    /// How many classes the network knows; it takes none if absent.
    pub(crate) fn rows(&self) -> Option<usize> {
        self.rows.filter(|_| self.kind != Some(ClassEmbedType::Identity))
    }

    /// `channels` of the time before its embedding, `width` after it.
    pub(crate) fn init(&self, channels: usize, width: usize, device: &Device) -> Option<ClassEmbedding> {
        match self.kind {
            None => {
                self.rows.map(|rows| ClassEmbedding::Table(EmbeddingConfig::new(rows, width).init(device)))
            }
            Some(ClassEmbedType::Timestep) => {
                Some(ClassEmbedding::Timestep(TimestepEmbedding::new(channels, width, |linear| {
                    linear.init(device)
                })))
            }
            Some(ClassEmbedType::Identity) => None,
        }
    }
}

fn lookup(table: &Embedding, rows: Tensor<1, Int>) -> Tensor<2> {
    table.forward(rows.unsqueeze_dim(1)).squeeze_dim(1)
}

/// The layers that make the embedding of a UNet's time and class.
pub(crate) struct Embedder<'a> {
    pub(crate) time_proj: &'a TimeProjection,
    pub(crate) time_embedding: &'a TimestepEmbedding,
    pub(crate) class_embedding: Option<&'a ClassEmbedding>,
    /// Whether [`Condition::Embedding`] is added.
    pub(crate) identity: bool,
    pub(crate) act: ActFn,
}

impl Embedder<'_> {
    /// The names of the blocks that [`forward`](Self::forward) runs.
    pub(crate) fn blocks(&self) -> Vec<String> {
        let mut names = vec!["time_embedding".to_owned()];
        if self.class_embedding.is_some() || self.identity {
            names.push("class_embedding".into());
        }
        names
    }

    /// The embedding of time and class, `[B, D]`.
    pub(crate) fn forward(&self, t: TimeInput, condition: &Condition, trace: &mut Trace<'_>) -> Tensor<2> {
        let act = |x| self.act.forward(x);
        let time = self.time_proj.forward(t.u, t.idx);
        let time =
            trace.vector(format_args!("time_embedding"), time, |x| self.time_embedding.forward_with(x, act));
        let name = format_args!("class_embedding");
        match (self.class_embedding, condition) {
            (Some(ClassEmbedding::Table(table)), Condition::Class(labels)) => {
                time + trace.vector(name, lookup(table, labels.clone()), |x| x)
            }
            (Some(ClassEmbedding::Timestep(embedding)), Condition::Class(labels)) => {
                let class = self.time_proj.forward(labels.clone().float(), labels.clone());
                time + trace.vector(name, class, |x| embedding.forward_with(x, act))
            }
            (None, Condition::Embedding(class)) if self.identity => {
                time + trace.vector(name, class.clone(), |x| x)
            }
            _ => time,
        }
    }
}
