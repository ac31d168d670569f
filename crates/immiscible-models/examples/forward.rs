//! Builds the smallest network of each kind, and prints its blocks and the shapes of what they return.
//!
//! `cargo run -p immiscible-models --example forward`

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use immiscible_models::{Condition, Ctx, Denoiser, Feature, ModelError, NETWORKS, TimeInput};

fn main() -> Result<(), ModelError> {
    let device = Device::flex();
    for (name, build) in NETWORKS {
        let network = build().tiny().init(&device)?;
        println!("{name}: {} parameters", network.num_params());

        let blocks = network.blocks();
        let taps: Vec<&str> = blocks.iter().map(String::as_str).collect();
        let x_t = Tensor::ones([2, 3, 8, 8], &device);
        let t = TimeInput::of(&[250.0, 999.0], &device);
        let condition = Condition::classes(&[3, 10], &device);
        let output = network.forward(x_t, t, &condition, Ctx { taps: &taps, ..Ctx::default() });
        for (block, feature) in output.taps {
            match feature {
                Feature::Vector(x) => println!("  {block} {:?}", x.dims()),
                Feature::Tokens(x) => println!("  {block} {:?}", x.dims()),
                Feature::Map(x) => println!("  {block} {:?}", x.dims()),
                _ => println!("  {block}"),
            }
        }
        println!("  -> {:?}", output.pred.dims());
    }
    Ok(())
}
