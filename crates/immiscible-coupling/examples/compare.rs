//! What each coupling does to the same batch: `cargo run -p immiscible-coupling --example compare`.

use burn::tensor::{Device, Distribution, Tensor};
use immiscible_coupling::{COUPLINGS, CouplingConfig, CouplingError, PairContext};
use immiscible_random::{Key, Stream};

fn main() -> Result<(), CouplingError> {
    let device = Device::flex();
    device.seed(0);
    let x0 = Tensor::<4>::random([128, 1, 28, 28], Distribution::Normal(-0.4, 0.7), &device);
    println!("{:12} {:>7} {:>11} {:>7} {:>8}", "coupling", "drop %", "coefficient", "energy", "ms");
    for (name, build) in COUPLINGS {
        let coupling = build(&CouplingConfig { kind: (*name).into(), ..CouplingConfig::default() })?;
        let key = Key::new(0).stream(Stream::NOISE);
        let did = coupling.draw(&x0, &PairContext::default(), key)?.statistics;
        println!(
            "{name:12} {:7.2} {:11.4} {:7.4} {:8.2}",
            did.drop_percent(),
            did.coefficient,
            did.energy,
            did.milliseconds
        );
    }
    Ok(())
}
