use std::fmt::Arguments;

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// What flows between the blocks of a network.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Feature {
    /// `[B, D]`: an embedding of the time or of the class.
    Vector(Tensor<2>),
    /// `[B, N, D]`: a sequence of patches.
    Tokens(Tensor<3>),
    /// `[B, C, H, W]`: feature maps.
    Map(Tensor<4>),
}

impl Feature {
    /// The embedding `[B, D]`.
    ///
    /// # Panics
    /// If it is another kind of feature.
    pub fn into_vector(self) -> Tensor<2> {
        match self {
            Self::Vector(x) => x,
            other => panic!("expected an embedding [B, D], got {}", other.kind()),
        }
    }

    /// The tokens `[B, N, D]`.
    ///
    /// # Panics
    /// If it is another kind of feature.
    pub fn into_tokens(self) -> Tensor<3> {
        match self {
            Self::Tokens(x) => x,
            other => panic!("expected tokens [B, N, D], got {}", other.kind()),
        }
    }

    /// The feature maps `[B, C, H, W]`.
    ///
    /// # Panics
    /// If it is another kind of feature.
    pub fn into_map(self) -> Tensor<4> {
        match self {
            Self::Map(x) => x,
            other => panic!("expected feature maps [B, C, H, W], got {}", other.kind()),
        }
    }

    fn kind(&self) -> String {
        match self {
            Self::Vector(x) => format!("an embedding {:?}", x.dims()),
            Self::Tokens(x) => format!("tokens {:?}", x.dims()),
            Self::Map(x) => format!("feature maps {:?}", x.dims()),
        }
    }
}

/// Wraps every named block: tap, skip, mask, add a residual.
///
/// A hook that only calls `run(input)` changes nothing. One that does not call it skips the block, and
/// returns what the block would have: the same kind of [`Feature`] of the same shape and type, or the network
/// panics. The names are those of [`Network::blocks`](crate::Network::blocks).
pub trait Hook {
    /// Called in place of `block`, whose work is `run`.
    fn around(&self, block: &str, input: Feature, run: &mut dyn FnMut(Feature) -> Feature) -> Feature;
}

/// What linear layers, convolutions and attention compute in, and what flows between them.
///
/// Weights stay as they are, and are cast where they are used, so that an optimiser keeps them in single precision. Norms, softmax and
/// what embeds time and class are computed in the type of the weights, and the prediction is of the type of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The type of the input: single precision, unless the whole network is of another.
    #[default]
    F32,
    /// Brain floating point of 16 bits: the range of single precision with 8 bits of it.
    Bf16,
}

impl Precision {
    /// What arrives in a network, ready for its first layer.
    pub(crate) fn cast<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => x.cast(DType::BF16),
        }
    }
}

/// What a caller wants besides the prediction.
#[derive(Clone, Copy, Default)]
pub struct Ctx<'a> {
    /// Wraps the blocks.
    pub hook: Option<&'a dyn Hook>,
    /// Names of the blocks whose output is kept in [`Output::taps`], as the hook left it.
    /// A name the network does not have is ignored.
    pub taps: &'a [&'a str],
    /// What most of a [`Denoiser`](crate::Denoiser) is computed in; autoencoders and text encoders compute in their weights' type.
    pub precision: Precision,
}

/// What a network returns.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[B, out_channels, H, W]`: what the objective compares with its target.
    pub pred: Tensor<4>,
    /// Losses that the network itself asks for (load balancing of experts …), by name, each `[1]`.
    pub aux: Vec<(String, Tensor<1>)>,
    /// The outputs of the blocks named in [`Ctx::taps`], in the order the network computes them.
    pub taps: Vec<(String, Feature)>,
    /// Further predictions (a learned variance, a second head …), by name.
    pub heads: Vec<(String, Tensor<4>)>,
}

/// Runs the blocks of one forward pass through the hook and keeps the taps.
pub(crate) struct Trace<'a> {
    ctx: Ctx<'a>,
    taps: Vec<(String, Feature)>,
}

impl<'a> Trace<'a> {
    pub(crate) fn new(ctx: Ctx<'a>) -> Self {
        Self { ctx, taps: Vec::new() }
    }

    /// One block; `run` receives the trace for the blocks inside.
    pub(crate) fn block(
        &mut self,
        name: Arguments<'_>,
        input: Feature,
        mut run: impl FnMut(&mut Self, Feature) -> Feature,
    ) -> Feature {
        if self.ctx.hook.is_none() && self.ctx.taps.is_empty() {
            return run(self, input);
        }
        let name = name.to_string();
        let output = match self.ctx.hook {
            Some(hook) => hook.around(&name, input, &mut |input| run(self, input)),
            None => run(self, input),
        };
        if self.ctx.taps.contains(&name.as_str()) {
            self.taps.push((name, output.clone()));
        }
        output
    }

    /// A block from feature maps to feature maps.
    pub(crate) fn map(
        &mut self,
        name: Arguments<'_>,
        x: Tensor<4>,
        run: impl Fn(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        self.block(name, Feature::Map(x), |_, x| Feature::Map(run(x.into_map()))).into_map()
    }

    /// A block from tokens to tokens.
    pub(crate) fn tokens(
        &mut self,
        name: Arguments<'_>,
        x: Tensor<3>,
        run: impl Fn(&mut Self, Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        self.block(name, Feature::Tokens(x), |trace, x| Feature::Tokens(run(trace, x.into_tokens())))
            .into_tokens()
    }

    /// A block from one embedding to another.
    pub(crate) fn vector(
        &mut self,
        name: Arguments<'_>,
        x: Tensor<2>,
        run: impl Fn(Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        self.block(name, Feature::Vector(x), |_, x| Feature::Vector(run(x.into_vector()))).into_vector()
    }

    /// The network's output.
    pub(crate) fn output(&mut self, pred: Tensor<4>) -> Output {
        Output { pred, aux: Vec::new(), taps: self.taps(), heads: Vec::new() }
    }

    /// The outputs that were asked for.
    pub(crate) fn taps(&mut self) -> Vec<(String, Feature)> {
        std::mem::take(&mut self.taps)
    }
}
