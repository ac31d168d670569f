//! The settings that all UNets have, and their checks.

use serde::Serialize;

use crate::ModelError;
use crate::checks::{epsilon, positive, probability};

/// The settings that every UNet has, to be checked.
pub(crate) struct Frame<'a, D, U> {
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) sample_size: Option<usize>,
    pub(crate) block_out_channels: &'a [usize],
    pub(crate) down_block_types: &'a [D],
    pub(crate) up_block_types: &'a [U],
    pub(crate) norm_num_groups: usize,
    pub(crate) norm_eps: f64,
    pub(crate) dropout: f64,
    pub(crate) downsample_padding: usize,
    pub(crate) mid_block_scale_factor: f64,
    /// Absent if the time is not embedded by sinusoids of fixed frequencies.
    pub(crate) freq_shift: Option<usize>,
    pub(crate) time_embedding_dim: Option<usize>,
    pub(crate) num_class_embeds: Option<usize>,
}

impl<D: Serialize, U: Serialize> Frame<'_, D, U> {
    pub(crate) fn validate(&self) -> Result<(), ModelError> {
        positive("in_channels", self.in_channels)?;
        positive("out_channels", self.out_channels)?;
        positive("norm_num_groups", self.norm_num_groups)?;
        for &channels in self.block_out_channels {
            positive("block_out_channels", channels)?;
        }
        for (field, value) in [
            ("sample_size", self.sample_size),
            ("time_embedding_dim", self.time_embedding_dim),
            ("num_class_embeds", self.num_class_embeds),
        ] {
            value.map_or(Ok(()), |value| positive(field, value))?;
        }
        probability("dropout", self.dropout)?;
        epsilon("norm_eps", self.norm_eps)?;
        if self.downsample_padding > 1 {
            return Err(ModelError::config("downsample_padding", &self.downsample_padding, "use 0 or 1"));
        }
        let scale = self.mid_block_scale_factor;
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(ModelError::config("mid_block_scale_factor", &scale, "use a positive number"));
        }

        let channels = self.block_out_channels;
        let resolutions = channels.len();
        if resolutions == 0 {
            return Err(ModelError::config(
                "block_out_channels",
                channels,
                "name the channels of at least one resolution",
            ));
        }
        let same_length = format!("name {resolutions}, one for each of block_out_channels");
        if self.down_block_types.len() != resolutions {
            return Err(ModelError::config("down_block_types", self.down_block_types, same_length));
        }
        if self.up_block_types.len() != resolutions {
            return Err(ModelError::config("up_block_types", self.up_block_types, same_length));
        }
        let groups = self.norm_num_groups;
        if channels.iter().any(|c| !c.is_multiple_of(groups)) {
            let remedy = format!("use multiples of norm_num_groups = {groups}, or change that");
            return Err(ModelError::config("block_out_channels", channels, remedy));
        }
        if let Some(shift) = self.freq_shift
            && (!channels[0].is_multiple_of(2) || channels[0] / 2 <= shift)
        {
            let remedy =
                format!("the time embedding needs an even first number above 2 × freq_shift = 2 × {shift}");
            return Err(ModelError::config("block_out_channels", channels, remedy));
        }
        if let Some(size) = self.sample_size
            && !size.is_multiple_of(downsampling(resolutions))
        {
            let remedy = format!(
                "{resolutions} resolutions need a multiple of {}; use fewer, or pad the images",
                downsampling(resolutions)
            );
            return Err(ModelError::config("sample_size", &size, remedy));
        }
        Ok(())
    }
}

/// By how much height and width shrink on a way down through so many resolutions.
pub(crate) fn downsampling(resolutions: usize) -> usize {
    1 << resolutions.saturating_sub(1).min(31)
}
