//! `immiscible data fetch`.

use crate::config::did_you_mean;
use crate::{Failure, cli};
use anyhow::anyhow;
use immiscible_data::{Patience, REMOTES, fetch};
use indicatif::{ProgressBar, ProgressStyle};

/// Downloads, checks and unpacks, and says how to train on it.
pub(crate) fn run(arguments: &cli::DataFetch) -> Result<(), Failure> {
    let name = &*arguments.name;
    let names = || REMOTES.iter().map(|remote| remote.name);
    let Some(remote) = REMOTES.iter().find(|remote| remote.name == name) else {
        return Err(Failure::usage(anyhow!(
            "no data set `{name}` can be fetched{}; known: {}",
            did_you_mean(name, names()),
            names().collect::<Vec<_>>().join(", ")
        )));
    };
    let into = arguments.into.clone().unwrap_or_else(|| name.into());
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(0).with_style(style.map_err(Failure::run)?);
    let mut show = |file: &str, here: u64, all: u64| {
        if bar.message() != file {
            bar.set_message(file.to_owned());
            bar.set_length(all);
            bar.reset_eta();
        }
        bar.set_position(here);
    };
    let path = fetch(remote, &into, arguments.url_base.as_deref(), Patience::default(), &mut show);
    bar.finish_and_clear();
    let path = path.map_err(Failure::run)?;
    println!("{name}: {}", path.display());
    println!("train on it with --set 'data={{name={:?}, path={:?}}}'", remote.source, path);
    Ok(())
}
