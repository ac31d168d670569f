//! The config's parser, for the fuzzer alone.

use crate::config::{expand_size, parse, preset, set, structure};
use crate::parts::{DataInfo, Parts, fit_model_to_data};
use anyhow::Result;
use toml::Table;

/// A config file; and `--set` for every line.
pub fn config(text: &str) {
    if let Ok(table) = text.parse() {
        one_line(check(table));
    }
    one_line(preset("digits").and_then(|mut table| {
        text.lines().try_for_each(|assignment| set(&mut table, assignment))?;
        check(table)
    }));
}

/// Everything that is checked without the data itself: the config is for images like the built-in ones.
fn check(mut table: Table) -> Result<()> {
    let data = DataInfo {
        name: "digits".into(),
        samples: 1797,
        shape: [1, 8, 8],
        classes: Some((0..10).map(|digit| digit.to_string()).collect()),
        latents: None,
        mask_sha256: None,
    };
    expand_size(&mut table)?;
    fit_model_to_data(&mut table, &data, None, 1)?;
    let config = parse(table)?;
    let again = parse(toml::to_string(&config)?.parse()?)?;
    assert_eq!(format!("{again:?}"), format!("{config:?}"), "it does not survive being written down");
    structure(&config)?;
    Parts::new(config, data).map(drop)
}

/// A message of one line that names what is wrong, and not all that was read.
fn one_line(outcome: Result<()>) {
    if let Err(error) = outcome {
        let text = crate::one_line(&error);
        assert!(text.lines().count() == 1 && text.len() < 10_000, "{text}");
    }
}
