//! What a user sees when a run is stopped, started twice, or has no room.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

mod common;

use common::{immiscible, refused, succeed, text};

const TINY: &[&str] = &[
    "train",
    "--run",
    "r",
    "--set",
    "model={kind=\"dit\", num_layers=1, patch_size=4, num_attention_heads=2, attention_head_dim=8}",
    "--set",
    "coupling.class_wise=true",
    "--set",
    "train.batch_size=16",
    "--set",
    "sample.steps=2",
    "--set",
    "sample.n=4",
    "--set",
    "checkpoint.every=2",
];

/// Starts a run that does not end by itself, and waits for its first checkpoint.
fn start(folder: &Path) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_immiscible"))
        .current_dir(folder)
        .args(TINY)
        .args(["--set", "train.steps=1000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("saved step") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ends before its first checkpoint");
    }
    (child, said)
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_signal_saves_and_a_second_trainer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut stopped = 0;
    for (name, status) in [("-TERM", 143), ("-INT", 130)] {
        let (mut child, said) = start(folder);
        // One that trains is named; reading is free.
        let second = immiscible(folder, TINY);
        let message = text(&second.stderr);
        assert_eq!(second.status.code(), Some(3), "{message}");
        assert!(
            message.contains(&format!("process {}", child.id())) && message.lines().count() == 1,
            "{message}"
        );
        let fresh = immiscible(folder, &[TINY, &["--fresh"]].concat());
        assert_eq!(fresh.status.code(), Some(3), "{}", text(&fresh.stderr));

        signal(&child, name);
        let rest: Vec<String> = said.lines().map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(status), "{rest:?}");
        let last = rest.last().unwrap();
        let step: u64 =
            last.strip_prefix("stopped at step ").unwrap().split(';').next().unwrap().parse().unwrap();
        assert!(step > stopped, "{last}");
        stopped = step;
        assert!(
            succeed(folder, &["checkpoint", "verify", "runs/r"]).starts_with(&format!("step {step}: intact"))
        );
    }
    let steps = format!("train.steps={}", stopped + 3);
    let output = immiscible(folder, &[TINY, &["--set", &steps]].concat());
    assert!(
        text(&output.stderr).contains(&format!("going on from step {stopped}")),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_kill_costs_no_checkpoint_and_no_repair() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for _ in 0..3 {
        let (mut child, _) = start(folder);
        child.kill().unwrap();
        child.wait().unwrap();
        let run = folder.join("runs/r/checkpoints");
        let latest = fs::read_to_string(run.join("latest")).unwrap();
        assert!(run.join(latest).join("manifest.json").exists());
        succeed(folder, &["checkpoint", "verify", "runs/r"]);
    }
}

#[test]
fn what_is_refused_leaves_the_run_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeed(folder, &[TINY, &["--set", "train.steps=4"]].concat());
    let config = folder.join("runs/r/config.toml");
    let before = fs::read(&config).unwrap();
    let output = immiscible(folder, &[TINY, &["--set", "train.steps=3"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("train.steps = 3"), "{}", text(&output.stderr));
    assert!(before == fs::read(&config).unwrap());

    // Half a config, as a lost disk leaves it: the checkpoints know whose they are.
    fs::write(&config, "seed = ").unwrap();
    let output = immiscible(folder, &[TINY, &["--set", "train.steps=6"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("going on from step 4"), "{}", text(&output.stderr));
    fs::remove_file(&config).unwrap();
    let output = immiscible(folder, &[TINY, &["--set", "seed=9", "--set", "train.steps=6"]].concat());
    assert!(text(&output.stderr).contains("another config"), "{}", text(&output.stderr));

    // --fresh that was killed after its first act, and one that was not.
    fs::create_dir(folder.join("runs/r/.discarded")).unwrap();
    fs::rename(folder.join("runs/r/checkpoints"), folder.join("runs/r/.discarded/checkpoints")).unwrap();
    for more in [&["--set", "seed=9"][..], &["--fresh"]] {
        let output = immiscible(folder, &[TINY, more, &["--set", "train.steps=2"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("going on"), "{}", text(&output.stderr));
        assert!(!folder.join("runs/r/.discarded").exists());
    }
}

#[test]
fn no_room_is_a_warning_and_then_the_end_with_the_old_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeed(folder, &[TINY, &["--set", "train.steps=4"]].concat());
    // Files of at most 4 KiB: the log has room, and the weights do not.
    let limited = Command::new("sh")
        .current_dir(folder)
        .args(["-c", "ulimit -f 8; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_immiscible")])
        .args(TINY)
        .args([
            "--set",
            "train.steps=50",
            "--set",
            "checkpoint.max_failures=3",
            "--set",
            "checkpoint.retry_seconds=0",
        ])
        .output()
        .unwrap();
    let said = text(&limited.stderr);
    assert_eq!(limited.status.code(), Some(1), "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: step")).collect();
    assert_eq!(warnings.len(), 2, "{said}");
    assert!(warnings[0].contains("safetensors") && warnings[0].contains("bytes are wanted"), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains("3 times in a row") && last.contains("checkpoint of step 4 is unharmed"), "{said}");
    let output = immiscible(folder, &[TINY, &["--set", "train.steps=6"]].concat());
    assert!(text(&output.stderr).contains("going on from step 4"), "{}", text(&output.stderr));
}

#[test]
#[cfg(target_os = "linux")]
fn memory_that_is_used_up_has_an_exit_status_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .current_dir(folder.path())
        .env("RAYON_NUM_THREADS", "2")
        .env("MALLOC_ARENA_MAX", "2")
        .env("RUST_BACKTRACE", "0")
        // 1.5 GB, of which such a batch needs several.
        .args(["-c", "ulimit -v 1500000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_immiscible"), "train"])
        .args(["--set", "model.block_out_channels=[256,512]", "--set", "train.batch_size=1536"])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("memory allocation of"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn nobody_who_listens_is_no_reason_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let full = fs::File::create("/dev/full").unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_immiscible"))
        .current_dir(folder.path())
        .args(TINY)
        .args(["--set", "train.steps=4"])
        .stdout(Stdio::null())
        .stderr(full)
        .status();
    assert_eq!(ended.unwrap().code(), Some(0));
    succeed(folder.path(), &["checkpoint", "verify", "runs/r"]);
}

#[test]
#[cfg(target_os = "linux")]
fn what_cannot_be_printed_is_one_line() {
    for command in ["list", "devices"] {
        let full = fs::File::create("/dev/full").unwrap();
        let mut immiscible = Command::new(env!("CARGO_BIN_EXE_immiscible"));
        let output = immiscible.arg(command).env("RUST_BACKTRACE", "0").stdout(full).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{command}: {said}");
        assert!(said.contains("failed printing to stdout"), "{command}: {said}");
    }
}

#[test]
fn a_damaged_checkpoint_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert!(refused(folder, &["checkpoint", "verify", "runs/r"]).contains("runs/r/checkpoints"));
    succeed(folder, &[TINY, &["--set", "train.steps=4"]].concat());
    fs::write(folder.join("runs/r/checkpoints/step-00000004/optim.bpk"), "flipped").unwrap();
    let output = immiscible(folder, &["checkpoint", "verify", "runs/r"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("damaged: ") && lines[0].contains("optim.bpk"), "{said}");
    assert_eq!(lines[1..], ["step 2: intact"]);
}

#[test]
fn the_exit_statuses_are_in_the_help() {
    let help = succeed(Path::new("."), &["--help"]);
    for status in ["0", "1", "2", "3", "4", "130", "143"] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{status}  "))),
            "{status}: {help}"
        );
    }
}
