use super::full::{self, BEFORE};
use super::report::Line;
use super::subject::Subject;
use std::fs;
use std::process::{Command, Stdio};

/// What saving a checkpoint asks the system for, beside opening files, which everything does.
const CALLS: [&str; 7] = ["mkdir", "write", "fsync", "fdatasync", "rename", "unlinkat", "rmdir"];
/// Steps of the run whose calls fail: three saves, and a line of the log at the end.
const UNTIL: u64 = BEFORE + 7;

/// One system call after the other fails, up to `most` of each kind; `strace` makes them fail.
pub(super) fn run(subject: &Subject, most: u64) -> Result<Vec<Line>, String> {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return Ok(vec![Line::not_tried("system calls that fail", "there is no strace")]);
    }
    full::first_half(subject)?;
    let (mut failed, mut bad, mut notes) = (0, 0, Vec::new());
    for call in CALLS {
        for number in 1..=most {
            if !fails(subject, call, number)? {
                break;
            }
            failed += 1;
            if let Err(reason) = full::goes_on(subject) {
                bad += 1;
                notes.push(format!("{call} {number}: {reason}"));
            }
        }
    }
    Ok(vec![
        Line::count(
            format!(
                "of {failed} system calls that failed: checkpoints lost, or runs that do not go on bit-equal"
            ),
            bad,
            0,
        )
        .with(CALLS.join(", "))
        .with(notes.join("; ")),
    ])
}

/// Goes on with the first half while the call of this number fails; whether there is such a call.
fn fails(subject: &Subject, call: &str, number: u64) -> Result<bool, String> {
    subject.remove("full")?;
    let said = |error: std::io::Error| error.to_string();
    let copied = Command::new("cp").args(["-r", "half", "full"]).current_dir(subject.runs()).status();
    copied.map_err(said)?;
    let train = subject.command(&[]);
    let log = subject.folder.join("strace");
    let steps = format!("train.steps={UNTIL}");
    let settings = [&*steps, "checkpoint.max_failures=3", "checkpoint.retry_seconds=0"];
    let mut strace = Command::new("strace");
    strace.current_dir(&subject.folder).env("RUST_BACKTRACE", "0").args(["-f", "-qq", "-o"]).arg(&log);
    strace.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error=EIO:when={number}")]);
    strace.arg(train.get_program()).args(Subject::arguments("full", &settings));
    strace.stdout(Stdio::null()).stderr(Stdio::null()).status().map_err(said)?;
    Ok(String::from_utf8_lossy(&fs::read(&log).map_err(said)?).contains("(INJECTED)"))
}
