use crate::layers;
use serde_json::json;
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

    /// With something that is good to know; nothing if it is empty.
    pub(super) fn with(mut self, note: String) -> Self {
        self.notes.extend(Some(note).filter(|note| !note.is_empty()));
        self
    }

    fn passed(&self) -> bool {
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

#[derive(Default)]
pub(super) struct Report {
    pub(super) lines: Vec<Line>,
}

impl Report {
    pub(super) fn passed(&self) -> bool {
        self.lines.iter().all(Line::passed)
    }

    /// Writes the report as `.md` and `.json`.
    pub(super) fn write(&self, out: &Path, machine: &str) -> Result<(), String> {
        let first_line = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(layers::workspace_root()).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.unwrap_or_default().lines().next().unwrap_or("unknown").to_owned()
        };
        let (date, commit) =
            (first_line("date", &["-u", "+%F"]), first_line("git", &["rev-parse", "--short", "HEAD"]));
        let mut text = format!(
            "# Reliability\n\n\
             Written by `cargo xtask reliability`, {date}, commit {commit}, on {machine}. The command trains a network of a few\n\
             thousand parameters on the built-in digits, with windows, flips and dropout; a checkpoint every third step.\n\n\
             | what | found | at most | |\n|---|---:|---:|---|\n"
        );
        for line in &self.lines {
            text += &format!(
                "| {} | {} | {} | {} |\n",
                line.what,
                Line::number(line.found),
                Line::number(line.target),
                line.notes.join("; ").replace('|', "/").replace('\n', " ")
            );
        }
        text += "\nFailures and crashes at every single operation of a save, on a simulated disk that loses what was not flushed, and\n\
                 resumed runs of every kind are tests of `immiscible-train`: `tests/checkpoints.rs`, `tests/interruptions.rs`.\n";
        let values: Vec<_> = self
            .lines
            .iter()
            .map(|line| json!({"what": line.what, "found": line.found, "at_most": line.target, "notes": line.notes}))
            .collect();
        let value = json!({"date": date, "commit": commit, "machine": machine, "lines": values});
        for (ending, text) in [("md", text), ("json", format!("{value:#}\n"))] {
            let path = out.with_extension(ending);
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            println!("{}", path.display());
        }
        Ok(())
    }
}
