use crate::layers;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

/// One figure and what it must be.
pub(super) struct Line {
    what: String,
    found: f64,
    /// At most.
    target: f64,
    notes: Vec<String>,
}

impl Line {
    pub(super) fn count(what: String, found: u64, target: u64) -> Self {
        Self::limit(what, found as f64, target as f64)
    }

    pub(super) fn limit(what: String, found: f64, target: f64) -> Self {
        Self { what, found, target, notes: Vec::new() }
    }

    /// What this machine has no means for: it must not pass for a success, so it is said on the terminal as well.
    pub(super) fn not_tried(what: &str, reason: &str) -> Self {
        eprintln!("warning: {what}: NOT TRIED, {reason}");
        Self::count(format!("{what}: not tried, {reason}"), 0, 0)
    }

    /// With something that is good to know; nothing if it is empty.
    pub(super) fn with(mut self, note: String) -> Self {
        self.notes.extend(Some(note).filter(|note| !note.is_empty()));
        self
    }

    pub(super) fn passed(&self) -> bool {
        self.found <= self.target
    }

    fn number(value: f64) -> String {
        if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.2}") }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (found, target) = (Self::number(self.found), Self::number(self.target));
        let verdict = if self.passed() { "ok    " } else { "FAILED" };
        write!(f, "{verdict} {}: {found} (at most {target})", self.what)?;
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// Writes the lines of a stage to `.json`, where those of other stages stay, and all of them to `.md`.
pub(super) fn write(out: &Path, stage: &str, lines: &[Line], machine: &str) -> Result<(), String> {
    let today = Command::new("date").args(["-u", "+%F"]).output();
    let today = today.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let date = today.ok().filter(|date| !date.is_empty()).unwrap_or_else(|| "unknown".into());
    let commit = layers::commit().unwrap_or_else(|| "unknown".into());
    let figures: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!({
                "what": line.what,
                "found": line.found,
                "at_most": line.target,
                "notes": line.notes.join("; ").replace('\n', " "),
            })
        })
        .collect();
    let path = out.with_extension("json");
    let mut stages = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice::<BTreeMap<String, Value>>(&text).ok())
        .unwrap_or_default();
    let figures = json!({"date": date, "commit": commit, "machine": machine, "figures": figures});
    stages.insert(stage.into(), figures);
    let text = serde_json::to_string_pretty(&stages).map_err(|error| error.to_string())? + "\n";
    for (path, text) in [(path, text), (out.with_extension("md"), markdown(&stages))] {
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn markdown(stages: &BTreeMap<String, Value>) -> String {
    let mut text = String::from(
        "# Reliability\n\n\
         Written by `cargo xtask reliability`. The command trains a network of a few thousand parameters on the built-in digits,\n\
         with windows, flips and dropout, and saves a checkpoint every third step. Failures and crashes at every single\n\
         operation of a save, on a simulated disk that loses what was not flushed, and resumed runs of every kind are tests of\n\
         `immiscible-train`: `tests/checkpoints.rs`, `tests/interruptions.rs`. What it means is in\n\
         [what a run survives](../reliability.md).\n",
    );
    for (stage, of) in stages {
        let word = |key: &str| of[key].as_str().unwrap_or_default();
        text += &format!(
            "\n## {stage}\n\n{}, commit {}, on {}\n\n| what | found | at most | |\n|---|---:|---:|---|\n",
            word("date"),
            word("commit"),
            word("machine")
        );
        for figure in of["figures"].as_array().into_iter().flatten() {
            let number = |key: &str| Line::number(figure[key].as_f64().unwrap_or(f64::NAN));
            let [what, notes] =
                ["what", "notes"].map(|key| figure[key].as_str().unwrap_or_default().replace('|', "/"));
            text += &format!("| {what} | {} | {} | {notes} |\n", number("found"), number("at_most"));
        }
    }
    text
}
