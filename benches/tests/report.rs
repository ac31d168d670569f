//! The binary as `cargo xtask bench assignment` runs it, at sizes that take no time.

use std::{fs, process::Command};

#[test]
fn a_small_run_writes_its_report() {
    let out = tempfile::tempdir().expect("a folder");
    let status = Command::new(env!("CARGO_BIN_EXE_bench-assignment"))
        .args([
            "--batches",
            "16,2048",
            "--dim",
            "48",
            "--data",
            "digits",
            "--python",
            "none",
            "--budget",
            "0.001",
        ])
        .arg("--out")
        .arg(out.path())
        .status()
        .expect("it starts");
    assert!(status.success());
    let files: Vec<_> =
        fs::read_dir(out.path()).expect("written").flatten().map(|entry| entry.path()).collect();
    let page = files.iter().find(|path| path.extension().is_some_and(|extension| extension == "md"));
    let page = fs::read_to_string(page.expect("a page")).expect("text");
    assert_eq!(files.len(), 3);
    assert!(page.contains("digits at 2048 left out: digits has 1797 images"), "{page}");
    assert!(page.contains("| constant | 1,024 |"), "{page}");
    if cfg!(target_os = "linux") {
        let solved = page.lines().find(|line| line.starts_with("| exact | 16 |")).expect("a row");
        let memory = solved.split('|').rev().nth(2).expect("a column").trim();
        assert!(memory.parse::<f64>().is_ok(), "a child measures memory: {solved}");
    }
}

#[test]
fn what_cannot_be_read_is_one_line() {
    for wrong in [["--data", "/nowhere/at/all"], ["--dim", "1000"], ["--batches", "64,32"]] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_bench-assignment")).args(wrong).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{wrong:?}");
    }
}
