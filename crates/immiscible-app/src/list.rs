//! `immiscible list`: everything that a config can name, from the registries.

use crate::presets::PRESETS;

/// Prints the registries.
pub(crate) fn print() {
    println!("presets");
    for (name, text) in PRESETS {
        let summary = text.lines().next().unwrap_or_default().trim_start_matches("# ");
        println!("  {name:28} {summary}");
    }
    section("data.name", immiscible_data::SOURCES);
    section("model.kind", immiscible_models::NETWORKS);
    let sizes: Vec<_> = immiscible_models::SIZES.iter().map(|size| (size.name, ())).collect();
    section("model.size", &sizes);
    section("schedule.name", immiscible_schedule::SCHEDULES);
    section("objective.name", immiscible_schedule::OBJECTIVES);
    section("method.kind", immiscible_train::METHODS);
    section("method.distance", immiscible_train::DISTANCES);
    section("time.name", immiscible_schedule::TIME_SAMPLERS);
    section("loss.distance.name", immiscible_schedule::DISTANCES);
    section("loss.weighting.name", immiscible_schedule::WEIGHTINGS);
    section("coupling.kind", immiscible_coupling::COUPLINGS);
    section("coupling.assigner", immiscible_assign::ASSIGNERS);
    section("optimizer.kind", immiscible_train::OPTIMIZERS);
    section("optimizer.schedule", immiscible_train::LEARNING_RATE_SCHEDULES);
    section("ema.kind", immiscible_train::AVERAGES);
    section("sample.sampler", immiscible_schedule::SAMPLERS);
}

fn section<T>(title: &str, registry: &[(&str, T)]) {
    let names: Vec<_> = registry.iter().map(|(name, _)| *name).collect();
    println!("{title}\n  {}", names.join("  "));
}
