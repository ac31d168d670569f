//! `immiscible checkpoint`.

use crate::{Failure, cli};
use anyhow::anyhow;
use immiscible_train::CheckpointStore;

pub(crate) fn run(command: &cli::Checkpoint) -> Result<(), Failure> {
    match command {
        cli::Checkpoint::Verify { run } => {
            let folder = run.join("checkpoints");
            let found = CheckpointStore::new(&folder).check()?;
            if found.is_empty() {
                return Err(Failure::usage(anyhow!(
                    "{}: no checkpoint; name a run directory",
                    folder.display()
                )));
            }
            for checkpoint in &found {
                match checkpoint {
                    Ok(checkpoint) => println!("step {}: intact", checkpoint.step),
                    Err(error) => println!("damaged: {error}"),
                }
            }
            match found.iter().filter(|checkpoint| checkpoint.is_err()).count() {
                0 => Ok(()),
                damaged => Err(Failure::run(anyhow!("{damaged} of {} checkpoints are damaged", found.len()))),
            }
        }
    }
}
