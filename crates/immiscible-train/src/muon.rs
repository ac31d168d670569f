use crate::{OptimizerConfig, optimizer::adamw};
use burn::module::{ParamGroup, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdjustLrFn, ModuleOptimizer, MuonConfig};

/// Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the hidden matrices, AdamW for all else: convolutions,
/// biases, norms, embeddings and the last layer.
///
/// Steps are scaled by 0.2 √max(rows, columns) (Liu et al. 2025, arXiv 2502.16982, §2.2), so that both parts go with the
/// learning rate and the weight decay of AdamW, and a matrix and its transpose, as Burn keeps it, learn alike.
pub(crate) fn muon(config: &OptimizerConfig, matrices: Vec<ParamId>) -> ModuleOptimizer {
    let momentum = config.momentum.unwrap_or(0.95);
    let muon = MuonConfig::new()
        .with_momentum(
            MomentumConfig::new().with_momentum(momentum.into()).with_dampening(0.0).with_nesterov(true),
        )
        .with_weight_decay(Some(WeightDecayConfig::new(config.weight_decay)))
        .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
        .build();
    ModuleOptimizer::from(adamw(config)).with_group(ParamGroup::from_ids(matrices), muon, None)
}
