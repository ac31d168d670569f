//! What each coupling does to the same batch: `cargo run -p immiscible-coupling --example compare`.

use burn::tensor::{Device, Distribution, Tensor};
use immiscible_coupling::{COUPLINGS, CouplingConfig, CouplingError, PairContext};
use immiscible_random::{Key, Stream};
use ndarray::Array2;

fn main() -> Result<(), CouplingError> {
    let device = Device::flex();
    device.seed(0);
    let x0 = Tensor::<4>::random([128, 1, 28, 28], Distribution::Normal(-0.4, 0.7), &device);
    let mut data = Array2::<f32>::zeros((1_000, 784));
    data.rows_mut().into_iter().zip(0..).for_each(|(mut row, index)| {
        Key::new(1).fill_normals(index, 784, row.as_slice_mut().unwrap_or_default());
    });
    data = data * 0.7 - 0.4;
    println!(
        "{:12} {:>7} {:>11} {:>9} {:>7} {:>10} {:>8}",
        "coupling", "drop %", "coefficient", "alignment", "energy", "mean shift", "ms"
    );
    for (name, _) in COUPLINGS {
        let mut coupling = CouplingConfig { kind: (*name).into(), ..CouplingConfig::default() }.build()?;
        coupling.fit(data.view(), None)?;
        let key = Key::new(0).stream(Stream::NOISE);
        let did = coupling.draw(&x0, &PairContext::default(), key)?.statistics;
        println!(
            "{name:12} {:7.2} {:11.4} {:9.3} {:7.4} {:10.2} {:8.2}",
            did.drop_percent(),
            did.coefficient,
            did.alignment,
            did.energy,
            did.mean_shift,
            did.milliseconds
        );
    }
    Ok(())
}
