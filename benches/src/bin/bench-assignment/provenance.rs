//! The machine, the commit and the command of a run.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::{data::file_name, report::Provenance};

/// SIMD extensions that matter to the kernels.
const SIMD: [&str; 12] = [
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "asimd",
];
/// The Rust crates of the table.
const CRATES: [&str; 3] = ["lapjv", "lsap", "pathfinding"];

/// What can be found out about this run.
pub(crate) fn provenance(threads: usize, budget_seconds: f64) -> Provenance {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (cpu, simd) = processor(&cpuinfo);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut versions =
        BTreeMap::from([("rustc".to_owned(), output("rustc", &["--version"]).replace("rustc ", ""))]);
    versions.extend(locked(include_str!("../../../../Cargo.lock")));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    Provenance {
        date: output("date", &["+%F"]),
        cpu,
        simd,
        threads,
        commit: output("git", &["describe", "--always", "--dirty", "--exclude", "*"]),
        load: load.split(' ').next().unwrap_or_default().to_owned(),
        command: format!("cargo xtask bench assignment {}", shortened(&arguments)).trim_end().to_owned(),
        budget_seconds,
        versions,
    }
}

/// Model name, and those of [`SIMD`] that the processor has.
fn processor(cpuinfo: &str) -> (String, String) {
    let field = |names: &[&str]| {
        cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| names.contains(&name.trim()))
            .map(|(_, value)| value.trim())
    };
    let numbers = ["cpu family", "model", "stepping"].map(|name| field(&[name]).unwrap_or("?"));
    let cpu = match field(&["model name"]) {
        Some(name) => {
            format!("{name} (family {}, model {}, stepping {})", numbers[0], numbers[1], numbers[2])
        }
        None => std::env::consts::ARCH.to_owned(),
    };
    let flags: Vec<&str> = field(&["flags", "Features"]).unwrap_or_default().split(' ').collect();
    let simd: Vec<&str> = SIMD.into_iter().filter(|simd| flags.contains(simd)).collect();
    (cpu, simd.join(" "))
}

/// The versions of [`CRATES`] in a lock file.
fn locked(lock: &str) -> Vec<(String, String)> {
    let of = |name: &str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some((format!("{name} (crate)"), rest.split_once('"')?.0.to_owned()))
    };
    CRATES.into_iter().filter_map(of).collect()
}

/// The arguments without the interpreter, and with the last part only of every other path: where a machine keeps its
/// files tells nobody anything.
fn shortened(arguments: &[String]) -> String {
    let is_interpreter = |i: usize| {
        arguments[i].starts_with("--python=")
            || [i.checked_sub(1), Some(i)].into_iter().flatten().any(|i| arguments[i] == "--python")
    };
    let short = |argument: &String| match argument.rsplit_once('=') {
        Some((label, path)) => format!("{label}={}", file_name(path)),
        _ if Path::new(argument).components().count() > 1 => file_name(argument),
        _ => argument.clone(),
    };
    let quoted = |argument: String| if argument.contains(' ') { format!("\"{argument}\"") } else { argument };
    let kept = arguments.iter().enumerate().filter(|(i, _)| !is_interpreter(*i));
    kept.map(|(_, argument)| quoted(short(argument))).collect::<Vec<_>>().join(" ")
}

/// The first line that a command prints, or "unknown".
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let text = String::from_utf8(text.unwrap_or_default()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors() {
        let x86 = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC 9B45\nstepping\t: 1\n\
                   flags\t\t: fpu avx avx2 avx512f syscall\n";
        let expected = ("AMD EPYC 9B45 (family 26, model 2, stepping 1)".into(), "avx avx2 avx512f".into());
        assert_eq!(processor(x86), expected);
        assert_eq!(processor("").0, std::env::consts::ARCH);
    }

    #[test]
    fn paths_are_shortened_and_spaces_quoted() {
        let arguments =
            ["--data", "1/f fields=/home/me/fields", "--python", "/x/y", "--out=a/b", "--dim", "3072"];
        let shortened = shortened(&arguments.map(str::to_owned));
        assert_eq!(shortened, "--data \"1/f fields=fields\" --out=b --dim 3072");
    }

    #[test]
    fn the_lock_file_has_the_versions_of_our_peers() {
        let versions = locked(include_str!("../../../../Cargo.lock"));
        assert_eq!(versions.len(), CRATES.len());
        assert!(versions.iter().all(|(_, version)| version.contains('.')));
    }
}
