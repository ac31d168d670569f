//! The solvers of Python, in a process of its own that answers a line of JSON with a line of JSON.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::Context;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The name that `peers.py` gives to our own wheel.
const OURS: &str = "ours";
/// How numerical libraries learn of the number of threads.
const THREAD_VARIABLES: [&str; 5] = [
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
];

/// A running `peers.py`.
pub(crate) struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) hello: Hello,
}

/// What could be imported.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Hello {
    solvers: Vec<String>,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) missing: BTreeMap<String, String>,
}

impl Hello {
    pub(crate) fn peers(&self) -> impl Iterator<Item = &str> {
        self.solvers.iter().map(String::as_str).filter(|name| *name != OURS)
    }
}

#[derive(Serialize)]
pub(crate) struct Job<'a> {
    /// Which solvers meet in turn.
    pub(crate) matrices: &'a [PathBuf],
    pub(crate) rounds: usize,
    pub(crate) budget_ms: f64,
    pub(crate) solvers: Vec<&'a str>,
}

/// What one solver did.
#[derive(Debug, PartialEq, Deserialize)]
pub(crate) struct Answer {
    pub(crate) cpu_ms: Vec<f64>,
    pub(crate) wall_ms: Vec<f64>,
    /// Of ours, right before each; empty where our wheel is missing.
    pub(crate) ours_cpu_ms: Vec<f64>,
    /// What its answers cost, round by round; `None` for one that is no permutation.
    pub(crate) totals: Vec<Option<f64>>,
    pub(crate) error: Option<String>,
}

impl Python {
    pub(crate) fn start(interpreter: &Path, threads: usize) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/peers.py");
        let mut command = Command::new(interpreter);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(THREAD_VARIABLES.map(|variable| (variable, threads.to_string())));
        let mut child = command.spawn().with_context(|| interpreter.display().to_string())?;
        let input = child.stdin.take().context("no standard input")?;
        let mut output = BufReader::new(child.stdout.take().context("no standard output")?);
        let hello = read(&mut output).context("numpy is needed")?;
        Ok(Self { child, input, output, hello })
    }

    /// # Errors
    /// If Python ended, as it does where a peer crashes.
    pub(crate) fn race(&mut self, job: &Job) -> anyhow::Result<BTreeMap<String, Answer>> {
        writeln!(self.input, "{}", serde_json::to_string(job)?)?;
        read(&mut self.output)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It has nothing to lose, and without input it would end by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read<T: DeserializeOwned>(output: &mut impl BufRead) -> anyhow::Result<T> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    serde_json::from_str(&line).context("Python ended, or a peer crashed in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_script() {
        let hello =
            br#"{"solvers": ["ours", "SciPy"], "versions": {"scipy": "1.17.1"}, "missing": {"lapjv": "no"}}"#;
        let hello: Hello = read(&mut &hello[..]).expect("a greeting");
        assert_eq!(hello.peers().collect::<Vec<_>>(), ["SciPy"]);
        let answer = br#"{"SciPy": {"cpu_ms": [1.5], "wall_ms": [2.0], "ours_cpu_ms": [], "totals": [3.0], "error": null}}"#;
        let answer: BTreeMap<String, Answer> = read(&mut &answer[..]).expect("an answer");
        assert_eq!(answer["SciPy"].cpu_ms, [1.5]);
        assert!(read::<Hello>(&mut &b""[..]).is_err());
    }
}
