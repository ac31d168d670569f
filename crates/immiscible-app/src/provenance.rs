//! Where a measurement comes from: the machine, the commit, the day and the command.

use immiscible_models::NetworkConfig;
use serde::Serialize;
use std::fmt::{self, Display};
use std::path::Path;
use std::process::Command;

/// What a report says about how it was made. What cannot be found out is "unknown".
#[derive(Debug, Serialize)]
pub(crate) struct Provenance {
    /// Of the day, in UTC.
    pub(crate) date: String,
    /// Of the sources that the command was built from: `IMMISCIBLE_COMMIT` at that time, for a command that is carried to another
    /// machine, else what git says now, else the version.
    pub(crate) commit: String,
    /// Model name, family, model and stepping.
    pub(crate) cpu: String,
    /// Those that the process may use.
    pub(crate) cores: usize,
    /// Load average of the last minute before the measurement.
    pub(crate) load: String,
    pub(crate) command: String,
}

impl Provenance {
    /// What can be found out about this process.
    pub(crate) fn of_this() -> Self {
        let sources = env!("CARGO_MANIFEST_DIR");
        let describe = ["-C", sources, "describe", "--always", "--dirty", "--exclude", "*"];
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            date: output("date", &["-u", "+%F"]).unwrap_or_else(unknown),
            commit: option_env!("IMMISCIBLE_COMMIT")
                .map(str::to_owned)
                .or_else(|| output("git", &describe))
                .unwrap_or_else(|| format!("of version {}", env!("CARGO_PKG_VERSION"))),
            cpu: processor(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            load: load.split_once(' ').map_or_else(unknown, |(minute, _)| minute.into()),
            command: command(std::env::args().skip(1)),
        }
    }
}

impl Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, commit, cpu, cores, load, command } = self;
        let cores = if *cores == 1 { "1 core".into() } else { format!("{cores} cores") };
        write!(f, "{cpu}, {cores}, load {load} before; {date}, commit {commit}: `{command}`")
    }
}

fn unknown() -> String {
    "unknown".into()
}

/// Model name with the numbers that tell two generations of one name apart.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim())
    };
    let Some(name) = field("model name") else {
        return std::env::consts::ARCH.to_owned();
    };
    let [family, model, stepping] =
        ["cpu family", "model", "stepping"].map(|name| field(name).unwrap_or("?"));
    format!("{name} (family {family}, model {model}, stepping {stepping})")
}

/// The command with the last part only of every path: where a machine keeps its files tells nobody anything. A note stands beside
/// it anyway.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words = vec!["immiscible".to_owned()];
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if argument == "--note" {
            arguments.next();
        } else if !argument.starts_with("--note=") {
            words.push(shortened(&argument));
        }
    }
    words.join(" ")
}

/// `NAME:PATH`, `--flag=PATH` or a path, without the folders; in quotes where it has spaces. Sizes of networks, such as DiT-S/2, are no
/// paths, nor are several of them.
fn shortened(argument: &str) -> String {
    let last = |path: &str| match Path::new(path).file_name() {
        _ if path.split(',').all(|size| NetworkConfig::of_size(size).is_ok()) => path.to_owned(),
        Some(name) if Path::new(path).components().count() > 1 => name.to_string_lossy().into_owned(),
        _ => path.to_owned(),
    };
    let short = match argument.split_once([':', '=']) {
        Some((before, path)) if !before.contains(['/', '\\']) => {
            format!("{}{}", &argument[..=before.len()], last(path))
        }
        _ => last(argument),
    };
    if short.contains(' ') { format!("\"{short}\"") } else { short }
}

/// The first line that a command prints.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_with_their_generation() {
        let x86 =
            "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC 9B45\nstepping\t: 1\n";
        assert_eq!(processor(x86), "AMD EPYC 9B45 (family 26, model 2, stepping 1)");
        assert_eq!(processor(""), std::env::consts::ARCH);
    }

    #[test]
    fn commands_keep_no_folders_and_no_note() {
        let arguments = "coupling bench folder:/data/my/train DiT-S/2 DiT-S/2,DiT-B/4 --pools 128,1024 --prices ../some/prices.bin --out=a/b";
        let arguments = arguments.split(' ').map(str::to_owned);
        let note = ["--note", "on /dev/null", "--note=x", "/a/b c"].map(str::to_owned);
        assert_eq!(
            command(arguments.chain(note)),
            "immiscible coupling bench folder:train DiT-S/2 DiT-S/2,DiT-B/4 --pools 128,1024 --prices prices.bin --out=b \"b c\""
        );
    }
}
