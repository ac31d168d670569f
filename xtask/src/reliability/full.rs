use super::report::Line;
use super::subject::{STEPS, Subject};
use std::path::Path;
use std::process::{Command, Output};

/// Steps of the run that then has no room; a line of the log ends there.
pub(super) const BEFORE: u64 = 63;

/// In the working folder: a run with a checkpoint goes on where no file may be larger than so many blocks.
const LIMITED: &str = r#"
cp -r runs/half runs/full && (ulimit -f "$LIMIT"; exec "$@" --set checkpoint.max_failures=3 --set checkpoint.retry_seconds=0)
"#;

/// The same on a disk of its own with so many pages left. Its checkpoints are looked at, it is made larger, and the run goes
/// on.
const SMALL_DISK: &str = r#"
mkdir -p runs/full && mount -t tmpfs -o size=64m tmpfs runs/full && cp -r runs/half/. runs/full || exit 90
used=$(($(stat -f -c '%b - %f' runs/full)))
mount -o "remount,size=$(( (used + LIMIT) * 4096 ))" runs/full || exit 91
"$@" --set checkpoint.max_failures=3 --set checkpoint.retry_seconds=0
echo "ended $?" >&2
"$1" checkpoint verify runs/full || exit 92
mount -o remount,size=64m runs/full || exit 93
"$@" || exit 94
cp -r runs/full runs/copy
"#;

/// No room: a limit on the size of files at half of the points, a full disk at the other half.
pub(super) fn run(subject: &Subject, points: u64) -> Result<Vec<Line>, String> {
    first_half(subject)?;
    let sizes = sizes(&subject.runs().join("half"))?;
    let mut lines = Vec::new();
    let by_size = points - points / 2;
    // In blocks of 512 bytes, from nothing to more than enough.
    let largest = sizes.iter().max().copied().unwrap_or_default();
    lines.push(stage(subject, "a limit on the size of files", by_size, largest / 512 + 4, limited)?);
    // In pages, of which every file and the folder need whole ones.
    let pages = sizes.iter().map(|size| size.div_ceil(4096)).sum::<u64>() + 8;
    match small_disk(subject, 1_000) {
        Ok(_) => lines.push(stage(subject, "a full disk", points / 2, pages, small_disk)?),
        Err(reason) => lines.push(Line::not_tried("a full disk", &reason)),
    }
    Ok(lines)
}

/// Trains the run `half`.
pub(super) fn first_half(subject: &Subject) -> Result<(), String> {
    let ended = subject.train("half", &[&format!("train.steps={BEFORE}")])?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("the first half ends with {}: {}", ended.status, ended.said))
}

/// Whether all checkpoints of the run `full` are intact, and it goes on to what the undisturbed run left.
pub(super) fn goes_on(subject: &Subject) -> Result<(), String> {
    let verified = subject.command(&["checkpoint", "verify", "runs/full"]).output();
    let verified = verified.map_err(|error| error.to_string())?;
    if !verified.status.success() {
        return Err(String::from_utf8_lossy(&verified.stdout).into_owned());
    }
    let ended = subject.train("full", &[])?;
    if !ended.status.success() || ended.from() < BEFORE {
        return Err(format!("it does not go on: {}", ended.said));
    }
    match subject.difference(&subject.runs().join("full"))? {
        Some(name) => Err(format!("{name} differs")),
        None => Ok(()),
    }
}

type Try = fn(&Subject, u64) -> Result<Option<String>, String>;

fn stage(subject: &Subject, what: &str, points: u64, most: u64, at: Try) -> Result<Line, String> {
    let (mut lost, mut starved, mut notes) = (0, 0, Vec::new());
    for point in 0..points {
        let limit = point * most / points.max(1);
        match at(subject, limit) {
            Ok(failed) => starved += u64::from(failed.is_some()),
            Err(reason) => {
                lost += 1;
                notes.push(format!("at {limit}: {reason}"));
            }
        }
    }
    Ok(Line::count(
        format!("of {points} points with {what}: checkpoints lost, or runs that do not go on bit-equal"),
        lost,
        0,
    )
    .with(format!("{starved} of them could not save"))
    .with(notes.join("; ")))
}

/// What it said if it could not save; an error if that cost anything.
fn limited(subject: &Subject, blocks: u64) -> Result<Option<String>, String> {
    subject.remove("full")?;
    let output = script(subject, LIMITED, blocks, &mut Command::new("sh"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let failed = match output.status.code() {
        Some(0) => None,
        // It did not begin, or it ended for want of a checkpoint.
        Some(1 | 2) => Some(said),
        _ => return Err(format!("{}: {said}", output.status)),
    };
    goes_on(subject).map(|()| failed)
}

fn small_disk(subject: &Subject, pages: u64) -> Result<Option<String>, String> {
    subject.remove("full")?;
    subject.remove("copy")?;
    let mut shell = Command::new("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "sh"]);
    let output = script(subject, SMALL_DISK, pages, &mut shell)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{}: {said}", output.status));
    }
    match subject.difference(&subject.runs().join("copy"))? {
        Some(name) => Err(format!("{name} differs")),
        None if said.contains("ended 0") => Ok(None),
        None if said.contains("ended 1") || said.contains("ended 2") => Ok(Some(said)),
        None => Err(said),
    }
}

fn script(subject: &Subject, script: &str, limit: u64, shell: &mut Command) -> Result<Output, String> {
    let train = subject.command(&[]);
    let arguments = Subject::arguments("full", &[&format!("train.steps={STEPS}")]);
    let shell = shell.current_dir(&subject.folder).env("LIMIT", limit.to_string()).env("RUST_BACKTRACE", "0");
    let shell = shell.args(["-c", script, "sh"]).arg(train.get_program()).args(arguments);
    shell.output().map_err(|error| format!("{}: {error}", shell.get_program().display()))
}

/// Of the files of a checkpoint.
fn sizes(run: &Path) -> Result<Vec<u64>, String> {
    let checkpoint = run.join(format!("checkpoints/step-{BEFORE:08}"));
    let files = std::fs::read_dir(checkpoint).map_err(|error| error.to_string())?;
    Ok(files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).collect())
}
