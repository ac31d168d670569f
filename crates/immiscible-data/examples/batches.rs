//! Prints the shape and the labels of the first batches of the embedded digits.

use immiscible_data::{DataError, DataOptions, Loader, LoaderOptions, build};

fn main() -> Result<(), DataError> {
    let digits = build(&DataOptions::new("digits"))?;
    let loader = Loader::new(digits, LoaderOptions { batch_size: 64, seed: 0, flip: false })?;
    println!("{} samples, {} steps an epoch", loader.source().len(), loader.order().steps_per_epoch());
    for step in 0..4 {
        let batch = loader.batch_at(step)?;
        let mut counts = [0; 10];
        for label in batch.labels.unwrap_or_default() {
            counts[label as usize] += 1;
        }
        println!("step {step}: images {:?}, images of each digit {counts:?}", batch.images.dim());
    }
    Ok(())
}
