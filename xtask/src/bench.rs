//! `cargo xtask bench SUBJECT`: measurements that are kept as reports.

use crate::{Outcome, cargo, python};

pub(crate) fn run(arguments: &[String]) -> Outcome {
    match arguments.split_first() {
        Some((subject, options)) if subject == "assignment" => assignment(options),
        Some((subject, options)) if subject == "coupling" => coupling(options),
        Some((subject, options)) if subject == "loader" => loader(options),
        Some((subject, options)) if subject == "step" => step(options),
        _ => {
            eprintln!(
                "xtask: bench what? There are cargo xtask bench assignment, cargo xtask bench coupling DATA, cargo xtask bench \
                 loader and cargo xtask bench step"
            );
            Err(2)
        }
    }
}

/// `immiscible bench-step` with the device's backend, in the profile that training runs in.
fn step(options: &[String]) -> Outcome {
    crate::immiscible(&[&["bench-step".to_owned()], options].concat())
}

/// `immiscible coupling bench`, in the profile that training runs in.
fn coupling(options: &[String]) -> Outcome {
    let mut bench = cargo();
    bench.args(["run", "--quiet", "--package", "immiscible-app", "--", "coupling", "bench"]);
    eprintln!("building the benchmark (the first time takes minutes)");
    crate::run(bench.args(options))
}

/// Images a second for each core, from memory and from files.
fn loader(options: &[String]) -> Outcome {
    let mut bench = cargo();
    bench.args(["run", "--quiet", "--package", "immiscible-benches", "--bin", "bench-loader", "--"]);
    eprintln!("building the benchmark (the first time takes a minute)");
    crate::run(bench.args(options))
}

/// Our assigners beside other people's solvers. Without `--python` the Python half runs in an environment of our own
/// with the wheel of these sources and every peer that can be installed.
fn assignment(options: &[String]) -> Outcome {
    let mut bench = cargo();
    bench.args(["run", "--quiet", "--release", "--package", "immiscible-benches", "--features", "peers"]);
    bench.args(["--bin", "bench-assignment", "--"]).args(options);
    // Nothing is measured with --render and --help.
    let given = ["--python", "--render", "--help", "-h"];
    if !options.iter().any(|option| given.contains(&option.split('=').next().unwrap_or_default())) {
        match python::with_peers()? {
            Ok(python) => bench.arg("--python").arg(python),
            Err(reason) => {
                eprintln!("without Python: {reason}");
                bench.args(["--python", "none"])
            }
        };
    }
    eprintln!("building the benchmark (the first time takes minutes)");
    crate::run(&mut bench)
}
