//! [`DiTTransformer2DModel`](immiscible_models::DiTTransformer2DModel): parity with the package, setting by
//! setting.

use super::parity::{assert_defaults, assert_parity, assert_round_trip, folders};
use super::*;

#[test]
fn predictions_and_gradients_are_the_packages() {
    let folders = folders("dit");
    assert_eq!(folders.len(), 5);
    folders.iter().for_each(|folder| assert_parity(folder));
}

#[test]
fn folders_survive_a_round_trip() {
    folders("dit").iter().for_each(|folder| assert_round_trip(folder));
}

#[test]
fn defaults_are_the_packages() {
    assert_defaults("dit", &NetworkConfig::DiTTransformer2DModel(DiTConfig::default()));
}
